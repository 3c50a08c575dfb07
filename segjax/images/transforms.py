"""Transforms of images and coordinates into the model's frame: resize, crop, pad, scale.

Training and prediction share these functions. The canvas is a square of S x S pixels, whose top
left holds the content of h x w pixels. The device normalizes pixels, so padding here is zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from segjax.images.decoding import decode_image
from segjax.images.opening import has_eight_bits, is_tiff, lift_pillow_limit, open_image
from segjax.images.stored import convert_to_rgb

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


# Resizing and padding


def compute_fitted_size(hw: tuple[int, int], canvas: int | tuple[int, int]) -> tuple[int, int]:
    """Computes the size of an image resized until it fills the canvas along one side.

    Args:
      hw: (height, width) of the image in pixels.
      canvas: (H, W) in pixels, or the side of a square.

    Returns:
      (h, w) in pixels, rounded as in SAM, each at least 1.
    """
    height, width = (canvas, canvas) if isinstance(canvas, int) else canvas
    scale = min(height / hw[0], width / hw[1])
    return max(1, int(hw[0] * scale + 0.5)), max(1, int(hw[1] * scale + 0.5))


def resize_longest_side(image: np.ndarray, canvas: int) -> np.ndarray:
    """Resizes an image so that its longest side fills the canvas, as in SAM.

    Args:
      image: uint8 [H, W, 3].
      canvas: side of the canvas in pixels.

    Returns:
      uint8 [h, w, 3] with max(h, w) = canvas, by Pillow's antialiased bilinear filter.
    """
    h, w = compute_fitted_size(image.shape[:2], canvas)
    return np.asarray(Image.fromarray(image).resize((w, h), Image.BILINEAR))


def compute_center_box(hw: tuple[int, int], margin: float = 1.0) -> Box:
    """Computes the box of a center crop.

    Args:
      hw: (height, width) of the image in pixels.
      margin: shorter side of the image in crop sides. 1 is the largest square. 256 / 224 is the
        usual crop for evaluation on ImageNet.

    Returns:
      (top, left, height, width) of a square, in pixels.
    """
    side = max(round(min(hw) / margin), 1)
    return (hw[0] - side) // 2, (hw[1] - side) // 2, side, side


def center_crop(image: np.ndarray, canvas: int) -> np.ndarray:
    """Crops the largest central square and resizes it to the canvas.

    Args:
      image: uint8 [H, W, 3].
      canvas: side of the result in pixels.

    Returns:
      uint8 [canvas, canvas, 3], by Pillow's bicubic filter.
    """
    return np.asarray(decode_crop(image, lambda hw: (compute_center_box(hw), (canvas, canvas))))


# Decoding crops


def decode_crop(
    source: bytes | np.ndarray,
    choose: Callable[[tuple[int, int]], tuple[Box, tuple[int, int]]],
    *,
    name: str = "image",
    percentiles: tuple[float, float] | None = None,
    reduced: bool = False,
) -> Image.Image:
    """Decodes one crop of an image and resizes it, RGB.

    The filter is Pillow's antialiased bicubic. Pixels around the crop have no influence.

    Args:
      source: see `decode_image`.
      choose: maps (H, W) of the image to a pair of the crop (top, left, height, width) and the
        size (h, w) that it gets.
      name: see `decode_image`.
      percentiles: see `decode_image`.
      reduced: decode a JPEG at 1/2, 1/4 or 1/8 of its size if the crop shrinks by as much. This
        is much faster, and at least as many pixels are left as the result has. The crop stays
        the same.

    Raises:
      ImageError: see `decode_image`.
    """
    if not isinstance(source, np.ndarray) and percentiles is None and not is_tiff(source):
        with open_image(source, name) as image:
            if has_eight_bits(image):
                return crop_and_resize(image, *choose((image.height, image.width)), reduced=reduced)
    image = Image.fromarray(decode_image(source, name=name, percentiles=percentiles))
    with lift_pillow_limit():
        return crop_and_resize(image, *choose((image.height, image.width)))


def crop_and_resize(
    image: Image.Image,
    box: Box,
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    *,
    reduced: bool = False,
) -> Image.Image:
    """Crops and resizes an opened Pillow image, with antialiasing.

    Args:
      image: an image from `open_image`. With `reduced`, do not use it again.
      box: (top, left, height, width) of the crop in pixels.
      size: (h, w) of the result.
      resample: Pillow's filter.
      reduced: see `decode_crop`.

    Returns:
      RGB image.
    """
    # libjpeg shrinks while it decodes; coordinates follow.
    factor = _reduce(image, min(box[2] // size[0], box[3] // size[1])) if reduced else 1
    top, left, height, width = box
    outer = (
        left // factor,
        top // factor,
        -(-(left + width) // factor),
        -(-(top + height) // factor),
    )
    window = image if outer == (0, 0, *image.size) else image.crop(outer)
    window = convert_to_rgb(window)
    if factor == 1:
        return window if window.size == size[::-1] else window.resize(size[::-1], resample)
    # The crop in the frame of the shrunken image; its edges need not lie on pixels.
    x, y = left / factor - outer[0], top / factor - outer[1]
    part = (x, y, min(x + width / factor, window.width), min(y + height / factor, window.height))
    return window.resize(size[::-1], resample, box=part)


def _reduce(image: Image.Image, shrinks: int) -> int:
    """Asks libjpeg to shrink an image while it decodes.

    Args:
      image: an opened image whose pixels are not yet decoded.
      shrinks: largest factor.

    Returns:
      The factor in both directions: 1, 2, 4 or 8. It is 1 for anything but a JPEG.
    """
    factor = max((k for k in (2, 4, 8) if k <= shrinks), default=1)
    if factor == 1:
        return 1
    width = image.width
    drafted = image.draft(None, (width // factor, image.height // factor))
    return 1 if drafted is None else round(width / drafted[1][2])


def pad_to_canvas(image: np.ndarray, canvas: int | tuple[int, int]) -> np.ndarray:
    """Pads content to the canvas with zeros to the right and below.

    Args:
      image: [h, w, ...].
      canvas: (H, W) in pixels, or the side of a square.

    Returns:
      [H, W, ...].

    Raises:
      ValueError: the content is larger than the canvas.
    """
    h, w = image.shape[:2]
    height, width = (canvas, canvas) if isinstance(canvas, int) else canvas
    if h > height or w > width:
        raise ValueError(
            f"content of {h} x {w} pixels does not fit a canvas of {canvas}; "
            "resize it first (resize_longest_side)"
        )
    padded = np.zeros((height, width, *image.shape[2:]), image.dtype)
    padded[:h, :w] = image
    return padded


# Coordinates


def scale_points(
    points: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]
) -> np.ndarray:
    """Scales points of one frame to another.

    As in SAM, points are multiplied by the ratio of the rounded sizes. The model adds the half
    pixel to the pixel center.

    Args:
      points: [..., 2], (x, y) in pixels of the first frame.
      from_hw: (height, width) of the first frame.
      to_hw: (height, width) of the second frame.

    Returns:
      float32 [..., 2].
    """
    ratio = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    return (np.asarray(points, np.float64) * ratio).astype(np.float32)


def scale_boxes(boxes: np.ndarray, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> np.ndarray:
    """Scales boxes of one frame to another, see `scale_points`.

    Args:
      boxes: [..., 4], x1 y1 x2 y2 in pixels of the first frame.
      from_hw: (height, width) of the first frame.
      to_hw: (height, width) of the second frame.

    Returns:
      float32 [..., 4].
    """
    boxes = np.asarray(boxes)
    return scale_points(boxes.reshape(*boxes.shape[:-1], 2, 2), from_hw, to_hw).reshape(boxes.shape)
