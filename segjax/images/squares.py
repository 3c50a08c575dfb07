"""Images as squares: the shorter side fitted and the center taken, or the aspect ratio changed."""

from typing import Any

import numpy as np
from PIL import Image

from segjax.images.decoding import decode_image

FILTERS = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}


def make_square(
    image: Any,
    side: int,
    *,
    resize: str = "crop",
    interpolation: str = "bicubic",
    name: str = "image",
) -> np.ndarray:
    """Resizes an image to a square, as CLIP's training did.

    Args:
      image: pixels or bytes of a file, see `segjax.images.decoding.decode_image`.
      side: of the square in pixels.
      resize: "crop" resizes the shorter side and takes the center, as torchvision's Resize and
        CenterCrop do on a Pillow image. "squash" resizes to the square, whatever the aspect ratio.
      interpolation: "bicubic" or "bilinear", both antialiased.
      name: of the image in messages.

    Returns:
      uint8 [side, side, 3].

    Raises:
      ImageError: not an image.
    """
    pixels = Image.fromarray(decode_image(image, name=name))
    resample = FILTERS[interpolation]
    if resize == "squash":
        return np.asarray(pixels.resize((side, side), resample))
    shorter = min(pixels.size)
    width, height = (
        side if length == shorter else int(side * length / shorter) for length in pixels.size
    )
    pixels = pixels.resize((width, height), resample)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return np.asarray(pixels.crop((left, top, left + side, top + side)))
