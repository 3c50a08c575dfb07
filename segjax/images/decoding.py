"""Decoding images: from encoded bytes or arrays of any usual kind to RGB uint8 [H, W, 3]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segjax.images.intensities import Note, check_kind, convert_to_eight_bits
from segjax.images.opening import ImageError
from segjax.images.stored import StoredImage, choose_bands, read_pixels


def decode_image(
    source: bytes | np.ndarray,
    *,
    name: str = "image",
    percentiles: tuple[float, float] | None = None,
    bands: Sequence[int] | None = None,
    upright: bool = False,
    notes: list[Note] | None = None,
) -> np.ndarray:
    """Decodes an image to RGB uint8 [H, W, 3].

    All commands and Python functions of segjax read images with this function, so the same rules
    hold everywhere. Grayscale is repeated over the three channels, palettes are looked up, CMYK
    becomes RGB as in Pillow, and alpha is dropped. Values of 16 bits are stretched from the darkest
    to the brightest of the image, because cameras use different parts of the range. Floats in 0..1
    become 0..255 (see `segjax.images.intensities`). EXIF orientation is ignored unless `upright` is
    set, because masks and points of records refer to the stored pixels.

    Args:
      source: bytes of an image file, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of
        Booleans, uint8, uint16, signed or 32-bit integers, or floats.
      name: of the image in messages, such as a file name.
      percentiles: (low, high) in 0..100. Intensities between these percentiles of the image are
        stretched over 0..255, all channels alike, as is usual in microscopy.
      bands: numbers from 1 of the one or three channels to show. None: the colors.
      upright: turn the image of a file as its EXIF orientation asks.
      notes: list that receives a note of everything that was not read as it is stored. None warns.

    Raises:
      ImageError: bytes that are not an image or end early, no pixels, another dtype or shape.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        options = dict(name=name, bands=bands, upright=upright, notes=notes)
        pixels = read_pixels(bytes(source), **options)
    else:
        pixels = choose_bands(_wrap_array(np.asarray(source), bands, name), bands, name)
    pixels = convert_to_eight_bits(pixels, name, percentiles, notes)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def _wrap_array(pixels: np.ndarray, bands: Sequence[int] | None, name: str) -> StoredImage:
    """Checks an array and wraps it as [H, W, S]."""
    expected = "expected uint8 or uint16 of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
    check_kind(pixels.dtype, name)
    counts = (1, 3, 4) if bands is None else range(1, 2**16)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in counts):
        hint = "; the channels go last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{name}: pixels have shape {pixels.shape}; {expected}{hint}")
    if 0 in pixels.shape:
        raise ImageError(f"{name}: the image has no pixels (shape {pixels.shape}); {expected}")
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return StoredImage(pixels, 1 if pixels.shape[2] < 3 else 3)
