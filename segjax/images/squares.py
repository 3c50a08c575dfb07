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
    pixels = resize_shorter_side(pixels, side, resample)
    left, top = (round((length - side) / 2) for length in pixels.size)
    return np.asarray(pixels.crop((left, top, left + side, top + side)))


def resize_shorter_side(
    image: Image.Image, side: int, resample: Image.Resampling = Image.BICUBIC
) -> Image.Image:
    """Resizes an image so that its shorter side has a length in pixels, as torchvision does."""
    shorter = min(image.size)
    size = [side if length == shorter else int(side * length / shorter) for length in image.size]
    return image.resize(size, resample)


def fit_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes uint8 [H, W, 3] bicubically so that its shorter side has a length in pixels."""
    return np.asarray(resize_shorter_side(Image.fromarray(image), side))


def crop_square(
    image: np.ndarray,
    box: np.ndarray,
    side: int,
    *,
    expand: float = 1.0,
    mask: np.ndarray | None = None,
    color: tuple[int, int, int] = (0, 0, 0),
    interpolation: str = "bicubic",
) -> np.ndarray:
    """Crops the square around a box and resizes it.

    Args:
      image: uint8 [H, W, 3].
      box: x1 y1 x2 y2 in pixels. The square has its center and its longer side.
      side: of the result in pixels.
      expand: factor by which the square is scaled about its center.
      mask: bool [H, W]. Pixels outside of it get the color. None: none do.
      color: RGB 0..255 of those pixels, and of those outside of the image.
      interpolation: "bicubic" or "bilinear", both antialiased.

    Returns:
      uint8 [side, side, 3].
    """
    x1, y1, x2, y2 = (float(edge) for edge in box)
    length = max(1, round(max(x2 - x1, y2 - y1) * expand))
    left, top = round((x1 + x2 - length) / 2), round((y1 + y2 - length) / 2)
    # Only the part inside of the image is copied
    rows = slice(max(top, 0), max(min(top + length, image.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + length, image.shape[1]), 0))
    content = image[rows, columns]
    if mask is not None:
        content = np.where(mask[rows, columns, None], content, np.array(color, np.uint8))
    square = np.empty((length, length, 3), np.uint8)
    square[:] = color
    square[
        rows.start - top : rows.start - top + content.shape[0],
        columns.start - left : columns.start - left + content.shape[1],
    ] = content
    resized = Image.fromarray(square).resize((side, side), FILTERS[interpolation])
    return np.asarray(resized)
