"""Encoding images as PNG and JPEG bytes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

# Pillow's names of formats. Phones write the second, a JPEG with further images behind it.
JPEG_FORMATS = ("JPEG", "MPO")
JPEG_QUALITY = 95
# Pillow's modes of 16-bit grayscale images
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image uint8 or uint16, [H, W], [H, W, 1] or [H, W, 3], as PNG."""
    image = image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image
    # Pillow cannot write 16-bit colors.
    if image.dtype == np.uint16 and image.ndim == 3:
        return _encode_deep_colors(image)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encodes an image uint8 [H, W, 3] as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def encode_cutout(image: np.ndarray, mask: np.ndarray) -> bytes:
    """Encodes the object of a mask as PNG with alpha, cut to the mask's box.

    Args:
      image: uint8 [H, W, 3].
      mask: bool [H, W].

    Raises:
      ValueError: the mask is empty or of another size.
    """
    if mask.shape != image.shape[:2] or not mask.any():
        raise ValueError(f"a mask {mask.shape} cuts nothing out of an image {image.shape[:2]}")
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    alpha = np.where(mask[window], np.uint8(255), np.uint8(0))
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([image[window], alpha])).save(buffer, "PNG")
    return buffer.getvalue()


def _encode_deep_colors(image: np.ndarray) -> bytes:
    """Encodes uint16 [H, W, 3] as PNG."""
    height, width = image.shape[:2]
    samples = image.astype(">u2", order="C").view(np.uint8)
    # Filter 1: each byte is stored as its difference from the same byte of the pixel to the left.
    rows = np.ones((height, 1 + 6 * width), np.uint8)
    rows[:, 1:] = samples.reshape(height, -1)
    rows[:, 7:] -= samples.reshape(height, -1)[:, :-6]

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    # 16 bits per channel, RGB, the only compression and filters there are, not interlaced
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def encode_image(image: Image.Image, original_format: str | None) -> bytes:
    """Encodes a Pillow image: one that was a JPEG as JPEG, all others as PNG.

    JPEG keeps photographs small: with a shorter side of 256 pixels, about 41 KB against 151 KB as
    PNG. PNG keeps grayscale of 8 or 16 bits. Palettes, alpha and all other modes become RGB.

    Args:
      image: any Pillow image.
      original_format: Pillow's name of the format that the image was read from, or None.
    """
    buffer = io.BytesIO()
    if original_format in JPEG_FORMATS:
        image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        is_grayscale = image.mode == "L" or image.mode in SIXTEEN_BITS
        (image if is_grayscale else image.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()
