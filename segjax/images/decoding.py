"""Decoding images: from encoded bytes or arrays of any usual kind to RGB uint8 [H, W, 3]."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image, UnidentifiedImageError

from segjax.images.encoding import SIXTEEN_BITS


class ImageError(ValueError):
    """Error for an image that cannot be read or has an unsupported form."""


def decode_image(
    source: bytes | np.ndarray,
    *,
    name: str = "image",
    percentiles: tuple[float, float] | None = None,
) -> np.ndarray:
    """Decodes an image to RGB uint8 [H, W, 3].

    Grayscale is repeated over the three channels, palettes are looked up, CMYK becomes RGB as in
    Pillow, and alpha is dropped. 16-bit grayscale is stretched from the darkest to the brightest
    value of the image, because cameras use different parts of the range. For encoded 16-bit
    colors, Pillow returns the upper 8 bits. EXIF orientation is ignored: masks and points refer to
    the stored pixels.

    Args:
      source: bytes of an image file, or an array uint8 or uint16 of shape [H, W], [H, W, 1],
        [H, W, 3] or [H, W, 4].
      name: of the image in error messages, such as a file name.
      percentiles: (low, high) in 0..100. Intensities between these percentiles of the image are
        stretched over 0..255, all channels alike, as is usual in microscopy.

    Raises:
      ImageError: bytes that are not an image or end early, no pixels, another dtype or shape.
    """
    pixels = (
        _decode_bytes(source, name)
        if isinstance(source, bytes | bytearray | memoryview)
        else source
    )
    pixels = np.asarray(pixels)
    _check_pixels(pixels, name)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    # Drop alpha
    pixels = pixels[:, :, :3]
    if percentiles is not None:
        pixels = stretch_intensities(pixels, *np.percentile(pixels, percentiles))
    # Cameras use different parts of the 16 bits.
    elif pixels.dtype == np.uint16:
        pixels = stretch_intensities(pixels, pixels.min(), pixels.max())
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels)


def stretch_intensities(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps intensities low..high linearly to 0..255, clipped and rounded.

    A flat image (high <= low) becomes black.

    Args:
      pixels: numbers of any shape.
      low: intensity that becomes 0.
      high: intensity that becomes 255.

    Returns:
      uint8 of the same shape.
    """
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.clip((pixels - np.float32(low)) * np.float32(scale) + 0.5, 0, 255).astype(np.uint8)


@contextlib.contextmanager
def open_image(data: bytes, name: str) -> Iterator[Image.Image]:
    """Opens encoded bytes as a Pillow image, whose pixels are decoded on demand inside the block.

    Args:
      data: bytes of an image file.
      name: of the image in error messages.

    Raises:
      ImageError: the header or the pixels cannot be read, or a channel has more than 16 bits.
    """
    if len(data) == 0:
        raise ImageError(
            f"{name}: the file is empty (0 bytes); expected an encoded PNG, JPEG or TIFF"
        )
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode in ("I", "F"):
                raise ImageError(
                    f"{name}: {image.format} with 32 bits per pixel (mode {image.mode}); expected "
                    "8 or 16 bits. Convert it to a uint8 or uint16 array and pass that"
                )
            yield image
    # Not an image at all. The errors below come from damaged images.
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: {len(data)} bytes that are not an image (they start with "
            f"{bytes(data[:8])!r}); expected an encoded PNG, JPEG or TIFF"
        ) from None
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{name}: the image of {len(data)} bytes is truncated or damaged ({error}); "
            "fetch the file again"
        ) from error


def _decode_bytes(data: bytes, name: str) -> np.ndarray:
    with open_image(data, name) as image:
        if image.mode in SIXTEEN_BITS:
            return np.asarray(image).astype(np.uint16)
        return np.asarray(convert_to_rgb(image))


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Converts a Pillow image to RGB. An image that is RGB is returned as it is."""
    if image.mode == "P":
        # Pillow would warn that it drops the transparency.
        image.info.pop("transparency", None)
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_pixels(pixels: np.ndarray, name: str) -> None:
    expected = "expected uint8 or uint16 of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
    if pixels.dtype not in (np.uint8, np.uint16):
        hint = ""
        if pixels.dtype.kind == "f":
            hint = "; if its values lie in 0..1, pass (image * 255).round().astype(np.uint8)"
        raise ImageError(f"{name}: pixels are {pixels.dtype}; {expected}{hint}")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        hint = "; the channels go last" if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{name}: pixels have shape {pixels.shape}; {expected}{hint}")
    if 0 in pixels.shape:
        raise ImageError(f"{name}: the image has no pixels (shape {pixels.shape}); {expected}")
