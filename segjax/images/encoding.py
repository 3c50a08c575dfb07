"""Encoding images as PNG and JPEG bytes."""

import io

import numpy as np
from PIL import Image

JPEG_FORMATS = (
    "JPEG",
    "MPO",
)  # as Pillow calls them; telephones write the second, a JPEG with others behind it
JPEG_QUALITY = 95
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of grey pictures


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 image [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def encode_image(picture: Image.Image, kind: str | None) -> bytes:
    """Bytes of a picture that was of Pillow's format `kind`: a JPEG becomes one again, others PNG.

    A JPEG stays small that way: of a photograph with a shorter side of 256 pixels, 41 KB against a PNG's 151 KB. PNG
    keeps grey at 8 or 16 bits; palettes, alpha and the rest become RGB.
    """
    buffer = io.BytesIO()
    if kind in JPEG_FORMATS:
        picture.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        as_it_is = picture.mode == "L" or picture.mode in SIXTEEN_BITS
        (picture if as_it_is else picture.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()
