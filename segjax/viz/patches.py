"""Draws the masked patches of masked autoencoders: uint8 RGB arrays in, uint8 RGB arrays out."""

import numpy as np

from segjax.viz.drawing import Color, check_image


def hide_patches(
    image: np.ndarray, masked: np.ndarray, color: Color = (128, 128, 128)
) -> np.ndarray:
    """Paints over the masked patches of an image.

    Args:
      image: uint8 [H, W, 3].
      masked: bool [h, w], True for masked patches. h and w divide H and W.
      color: RGB color of the paint.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: The grid of patches does not divide the image.
    """
    paint = np.broadcast_to(np.array(color, np.uint8), np.shape(image))
    return _replace_patches(image, paint, masked)


def fill_patches(image: np.ndarray, predicted: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Replaces the masked patches of an image by those of a prediction.

    Args:
      image: uint8 [H, W, 3].
      predicted: uint8 [H, W, 3].
      masked: bool [h, w], True for masked patches. h and w divide H and W.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: The grid of patches does not divide the image.
    """
    return _replace_patches(image, predicted, masked)


def _replace_patches(image: np.ndarray, other: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Takes masked patches from `other` and the rest from `image`."""
    check_image(image)
    height, width = image.shape[:2]
    if masked.ndim != 2 or height % masked.shape[0] or width % masked.shape[1]:
        raise ValueError(
            f"a grid {masked.shape} of patches does not divide an image of {height} x {width} "
            "pixels"
        )
    # Size of a patch
    rows, columns = height // masked.shape[0], width // masked.shape[1]
    pixels = masked.repeat(rows, axis=0).repeat(columns, axis=1)
    return np.where(pixels[..., None], other, image)
