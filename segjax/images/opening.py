"""Opening image files: the one place where Pillow reads bytes, which formats, and how many pixels.

Pillow would also open formats for which it starts other programs (PostScript) or that name further
files. Only the formats below are opened, whatever a file is called.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from segjax.images.jpeg_scans import has_too_many_scans

# Pillow's names. JPEG includes the files of phones that hold several images (MPO).
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DIB", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
FORMATS_TEXT = "a PNG, JPEG, TIFF, BMP, GIF, WebP, PPM, JPEG 2000 or AVIF file"

# An image of 16,384 x 16,384 pixels. Decoding it takes about 2 GB.
DEFAULT_PIXEL_LIMIT = 2**28
LIMIT_VARIABLE = "SEGJAX_MAX_IMAGE_PIXELS"

# What Pillow and tifffile raise for damaged files
READING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# Pillow's modes with at most 8 bits per channel
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class ImageError(ValueError):
    """Error for an image that cannot be read or has an unsupported form.

    Attributes:
      reason: short text without names or numbers, which reports count.
    """

    def __init__(self, message: str, reason: str = "image is truncated or not an image file"):
        self.reason = reason
        super().__init__(message)


class UnsupportedImageError(ImageError):
    """Error for an image that is intact, but of a kind that segjax cannot read correctly."""

    def __init__(self, message: str, reason: str = "image is of a kind that is not read"):
        super().__init__(message, reason)


@contextlib.contextmanager
def open_image(data: bytes, name: str) -> Iterator[Image.Image]:
    """Opens encoded bytes as a Pillow image, whose pixels are decoded on demand inside the block.

    Pillow shows 16-bit colors with 8 bits and reads some TIFF files wrongly. For pixels prefer
    `read_pixels`, or check `has_eight_bits` first.

    Args:
      data: bytes of an image file.
      name: of the image in error messages.

    Raises:
      ImageError: another format, more pixels than `get_pixel_limit`, or damaged bytes.
    """
    if len(data) == 0:
        raise ImageError(f"{name}: the file is empty (0 bytes); expected {FORMATS_TEXT}")
    try:
        with lift_pillow_limit(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_pixel_count(image.height, image.width, name)
            if image.format in ("JPEG", "MPO") and has_too_many_scans(
                data, image.height * image.width
            ):
                raise UnsupportedImageError(
                    f"{name}: the JPEG file goes over its {image.height} x {image.width} pixels "
                    "many more times than encoders write, which would take minutes. If you trust "
                    "it, open and save it with another program"
                )
            yield image
    # Not an image at all. The errors below come from damaged images.
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: {len(data)} bytes that are not an image (they start with "
            f"{bytes(data[:8])!r}); expected {FORMATS_TEXT}"
        ) from None
    except ImageError:
        raise
    except READING_ERRORS as error:
        raise make_damage_error(data, name, error) from error


def make_damage_error(data: bytes, name: str, error: Exception) -> ImageError:
    """Returns the error for an image whose decoder failed with `error`."""
    # Libraries quote the bytes of damaged files.
    text = str(error) or type(error).__name__
    text = "".join(letter if letter.isprintable() else " " for letter in text[:200])
    return ImageError(
        f"{name}: the image of {len(data)} bytes is truncated or damaged ({text}); fetch the file "
        "again"
    )


# Size


def get_pixel_limit() -> int:
    """Returns the largest number of pixels that an image may have.

    It is 2^28, or the environment variable SEGJAX_MAX_IMAGE_PIXELS.

    Raises:
      ValueError: the variable is not a positive integer.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return DEFAULT_PIXEL_LIMIT
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(
            f"{LIMIT_VARIABLE} is {text!r}; expected a number of pixels, such as 500000000"
        )
    return int(text)


def check_pixel_count(height: int, width: int, name: str, pixel_bytes: int = 1) -> None:
    """Raises ImageError for an image that has no pixels, too many, or too many bytes.

    A file of a few kilobytes can declare a size that exhausts the memory.

    Args:
      height: in pixels, as the file declares it.
      width: in pixels, as the file declares it.
      name: of the image in error messages.
      pixel_bytes: bytes of one pixel, if they are known. The limit allows for 8 per pixel.
    """
    if height < 1 or width < 1:
        raise ImageError(
            f"{name}: the image has no pixels ({height} x {width})", "image has zero size"
        )
    limit = get_pixel_limit()
    advice = (
        f"It protects against files that exhaust the memory. If you trust the file, set the "
        f"environment variable {LIMIT_VARIABLE} to a larger number of pixels"
    )
    reason = "image is larger than the limit"
    if height * width > limit:
        raise UnsupportedImageError(
            f"{name}: the image has {height} x {width} pixels, more than the limit of {limit:,}. "
            f"{advice}, such as {height * width}",
            reason,
        )
    if height * width * pixel_bytes > 8 * limit:
        raise UnsupportedImageError(
            f"{name}: {height} x {width} pixels of {pixel_bytes} bytes need more than the limit of "
            f"{8 * limit:,} bytes. {advice}, such as {-(-height * width * pixel_bytes // 8)}",
            reason,
        )


_limit_lock = threading.Lock()
_limit_users = 0
_limit_before: int | None = None


@contextlib.contextmanager
def lift_pillow_limit() -> Iterator[None]:
    """Turns Pillow's own limit of pixels off inside the block.

    Pillow keeps it in a global variable, so it is restored when the last thread leaves.
    """
    global _limit_users, _limit_before
    with _limit_lock:
        if _limit_users == 0:
            _limit_before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                Image.MAX_IMAGE_PIXELS = _limit_before


# Kinds of images


def is_tiff(data: bytes) -> bool:
    """Tests if bytes begin as a TIFF or BigTIFF file does."""
    return bytes(data[:4]) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def has_eight_bits(image: Image.Image) -> bool:
    """Tests if Pillow's pixels have all bits of the file, and at most 8 per channel.

    Args:
      image: from `open_image`, whose pixels are not yet decoded.
    """
    if image.mode not in _EIGHT_BIT_MODES or image.format == "TIFF":
        return False
    return not any(";16" in get_raw_mode(tile) or _is_deep_ppm(tile) for tile in image.tile)


def get_raw_mode(tile: tuple) -> str:
    """Returns Pillow's name for the layout of a file's samples, such as "RGB;16B"."""
    args = tile[3]
    return str(args[0] if isinstance(args, tuple) and args else args)


def _is_deep_ppm(tile: tuple) -> bool:
    """Tests if a tile is of a PPM file with values above 255."""
    codec, args = tile[0], tile[3]
    return codec.startswith("ppm") and isinstance(args, tuple) and args[1] > 255
