"""Reading the stored values of an image file, before any conversion to 8 bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segjax.images.encoding import JPEG_FORMATS, SIXTEEN_BITS
from segjax.images.intensities import Note, add_note
from segjax.images.opening import (
    UnsupportedImageError,
    get_raw_mode,
    has_eight_bits,
    is_tiff,
    open_image,
)
from segjax.images.orientation import read_orientation, turn_upright

# Pixels that are copied out of Pillow at once
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class StoredImage:
    """Values of an image as they are stored.

    Attributes:
      pixels: [H, W, S], any dtype. Palettes and CMYK are RGB already.
      colors: number of leading channels that are its colors: 1 (gray), 3 (RGB), or 0 if the file
        does not say. Further channels are alpha or other bands.
      orientation: EXIF orientation, 1 to 8.
    """

    pixels: np.ndarray
    colors: int
    orientation: int = 1


def read_pixels(
    data: bytes,
    *,
    name: str = "image",
    bands: int | Sequence[int] | None = None,
    upright: bool = False,
    notes: list[Note] | None = None,
) -> np.ndarray:
    """Reads the colors of an image file without changing their values.

    Args:
      data: bytes of the file.
      name: of the image in messages.
      bands: numbers from 1 of the one or three channels to read. None: the colors, without alpha.
      upright: turn the image as its EXIF orientation asks.
      notes: list that receives notes, see `add_note`.

    Returns:
      [H, W, 1] or [H, W, 3], any dtype.

    Raises:
      ImageError: bytes that cannot be read, or channels that nobody can choose for the user.
    """
    stored = read_stored(data, name, notes, bands)
    pixels = choose_bands(stored, bands, name)
    if upright and stored.orientation != 1:
        pixels = turn_upright(pixels, stored.orientation)
        height, width = pixels.shape[:2]
        detail = f"EXIF orientation {stored.orientation}, now {height} x {width} pixels"
        add_note(notes, name, "turned upright", detail)
    return pixels


def read_stored(
    data: bytes, name: str, notes: list[Note] | None = None, bands: Sequence[int] | None = None
) -> StoredImage:
    """Reads all channels of an image file, from which `choose_bands` chooses.

    Args:
      data: see `read_pixels`.
      name: see `read_pixels`.
      notes: see `read_pixels`.
      bands: see `read_pixels`.
    """
    if is_tiff(data):
        from segjax.images.tiff import read_tiff

        return read_tiff(data, name, notes, None if bands is None else list_bands(bands))
    with open_image(data, name) as image:
        frames = getattr(image, "n_frames", 1)
        # The further images of a phone's JPEG are previews and depth maps.
        if frames > 1 and image.format not in JPEG_FORMATS:
            add_note(notes, name, "only the first frame is read", f"1 of {frames} frames")
        if has_eight_bits(image) or image.mode not in ("RGB", "RGBA"):
            pixels, colors = convert_from_pillow(image, name, keep_alpha=bands is not None)
            return StoredImage(pixels, colors, read_orientation(image))
        tile, mode = image.tile[0], image.mode
        orientation = read_orientation(image)
    return StoredImage(*_read_deep_colors(data, name, tile, mode), orientation)


def choose_bands(stored: StoredImage, bands: int | Sequence[int] | None, name: str) -> np.ndarray:
    """Returns the channels of an image to show: [H, W, 1] or [H, W, 3].

    Args:
      stored: see `StoredImage`.
      bands: see `read_pixels`.
      name: of the image in error messages.

    Raises:
      ImageError: bands that do not exist, or none where the colors are unknown.
    """
    count = stored.pixels.shape[2]
    if bands is None:
        if stored.colors == 0:
            raise UnsupportedImageError(
                f"{name}: the image has {count} bands and does not say which are its colors; "
                "choose one or three of them, such as --bands 3,2,1 (bands=(3, 2, 1) in Python)"
            )
        return stored.pixels[:, :, : stored.colors]
    numbers = list_bands(bands)
    if len(numbers) not in (1, 3) or not all(1 <= number <= count for number in numbers):
        raise UnsupportedImageError(
            f"{name}: bands are {bands!r}; expected one or three numbers from 1 to {count}, the "
            "bands that the image has"
        )
    return stored.pixels[:, :, [number - 1 for number in numbers]]


def list_bands(bands: int | Sequence[int]) -> list[int]:
    """Returns one or several numbers of bands as a list. Anything else gives an empty list."""
    numbers = bands if isinstance(bands, list | tuple) else [bands]
    return list(numbers) if all(type(number) is int for number in numbers) else []


# Pillow


def convert_from_pillow(
    image: Image.Image, name: str, keep_alpha: bool = False
) -> tuple[np.ndarray, int]:
    """Converts an opened Pillow image to an array.

    Args:
      image: from `open_image`.
      name: of the image in error messages.
      keep_alpha: return alpha as a further channel.

    Returns:
      Pixels [H, W, S], and how many of the channels are colors: 1 or 3.

    Raises:
      ImageError: a color space that Pillow cannot convert.
    """
    mode = image.mode
    if mode in SIXTEEN_BITS:
        # Values of 16 bits may be stored in the other byte order.
        return copy_pixels(image).astype(np.uint16, copy=False)[..., None], 1
    if mode in ("I", "F"):
        return copy_pixels(image)[..., None], 1
    if mode in ("1", "L"):
        return copy_pixels(image, "L")[..., None], 1
    if mode in ("LA", "La"):
        return (copy_pixels(image, "LA") if keep_alpha else copy_pixels(image, "LA")[..., :1]), 1
    if mode == "RGBA" and keep_alpha:
        return copy_pixels(image), 3
    if mode in ("RGB", "RGBA", "P", "PA", "RGBX", "RGBa", "CMYK", "YCbCr"):
        return copy_pixels(image, "RGB"), 3
    raise UnsupportedImageError(
        f"{name}: colors of the kind {mode}; convert the image to RGB first"
    )


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Converts a Pillow image to RGB. An image that is RGB is returned as it is."""
    if image.mode == "P":
        # Pillow would warn that it drops the transparency.
        image.info.pop("transparency", None)
    # Pillow has no direct way from colors that are multiplied by alpha.
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def copy_pixels(image: Image.Image, mode: str | None = None) -> np.ndarray:
    """Copies the pixels of a Pillow image to an array, a part at a time.

    NumPy's own conversion would hold the image three times.

    Args:
      image: from `open_image`.
      mode: Pillow's mode to convert to. None keeps the image's own.

    Returns:
      [H, W] or [H, W, S].
    """
    image.load()
    rows = max(1, _CHUNK // max(1, image.width))
    pixels = None
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        if mode is not None and part.mode != mode:
            part = convert_to_rgb(part) if mode == "RGB" else part.convert(mode)
        part = np.asarray(part)
        if len(part) == image.height:
            return part
        if pixels is None:
            pixels = np.empty((image.height, *part.shape[1:]), part.dtype)
        pixels[top : top + len(part)] = part
    return pixels


# 16-bit colors, of which Pillow decodes one byte


def _read_deep_colors(data: bytes, name: str, tile: tuple, mode: str) -> tuple[np.ndarray, int]:
    """Reads 16-bit colors of a PNG or PPM file: uint16 [H, W, S] and the number of colors."""
    raw = get_raw_mode(tile)
    if raw == "LA;16B":
        # Its four bytes pass for the four channels of a pixel.
        pixels = read_samples(data, name, "RGBA")
        return join_bytes(pixels[:, :, 0::2], pixels[:, :, 1::2]), 1
    if raw in ("RGB;16B", "RGBA;16B"):
        # Samples are big-endian, so that reading them as little-endian gives the lower bytes.
        high, low = (read_samples(data, name, kind) for kind in (raw, raw[:-1] + "L"))
        return join_bytes(high, low), 3
    if tile[0] == "ppm":
        right, bottom = tile[1][2:]
        values = np.frombuffer(data, ">u2", 3 * right * bottom, offset=tile[2])
        return values.reshape(bottom, right, 3).astype(np.uint16), 3
    raise UnsupportedImageError(
        f"{name}: colors of 16 bits in a form that is not read ({raw}); save the image as PNG or "
        "TIFF"
    )


def read_samples(data: bytes, name: str, raw_mode: str, index: int = 0) -> np.ndarray:
    """Decodes an image whose samples Pillow is told to have another layout.

    Pillow keeps 8 bits of 16-bit colors. The layout decides which.

    Args:
      data: bytes of the file.
      name: of the image in error messages.
      raw_mode: Pillow's name of the layout, such as "RGB;16B".
      index: of the page.

    Returns:
      uint8 [H, W, S].
    """
    with open_image(data, name) as image:
        if index:
            image.seek(index)
        tile = image.tile[0]
        args = (raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode
        image.tile = [tile._replace(args=args)]
        return copy_pixels(image)


def join_bytes(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Joins the upper and the lower bytes of 16-bit values, uint8 each, to uint16."""
    pixels = np.empty(high.shape, "<u2")
    parts = pixels.view(np.uint8).reshape(*high.shape, 2)
    parts[..., 0], parts[..., 1] = low, high
    return pixels.astype(np.uint16, copy=False)
