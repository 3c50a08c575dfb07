"""Encoding images as PNG and JPEG bytes."""

import io

import numpy as np
from PIL import Image

# Pillow's names of formats. Phones write the second, a JPEG with further images behind it.
JPEG_FORMATS = ("JPEG", "MPO")
JPEG_QUALITY = 95
# Pillow's modes of 16-bit grayscale images
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


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
