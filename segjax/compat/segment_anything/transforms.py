"""ResizeLongestSide: converts images and prompts to the frame of the resized image."""

from typing import Any

import jax
import numpy as np

from segjax.compat.segment_anything.tensors import make_converter, to_numpy
from segjax.images.transforms import compute_fitted_size, resize_longest_side


class ResizeLongestSide:
    """Transform that resizes images so that their longest side is `target_length` pixels.

    Sizes are (height, width). Torch tensors come back as tensors on the same device.

    Example:
      >>> ResizeLongestSide(1024).apply_coords([[10, 20]], (512, 256))
      array([[20., 40.]])

    Args:
      target_length: Longest side of the resized image, in pixels.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Resizes an image, as the images of the training set were.

        Args:
          image: uint8 [H, W, C].

        Returns:
          uint8 [h, w, C], by Pillow's antialiased bilinear filter.
        """
        return np.array(resize_longest_side(np.ascontiguousarray(image), self.target_length))

    def apply_coords(self, coords: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """Converts points from the original image to the resized one.

        Args:
          coords: [.., 2], (x, y) in pixels of the original image.
          original_size: (height, width) of the original image.

        Returns:
          float64 [.., 2], in pixels of the resized image.
        """
        height, width = original_size
        h, w = compute_fitted_size((height, width), self.target_length)
        return np.asarray(coords, np.float64) * (w / width, h / height)

    def apply_boxes(self, boxes: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """Converts boxes from the original image to the resized one.

        Args:
          boxes: [B, 4] or [4], x1 y1 x2 y2 in pixels of the original image.
          original_size: (height, width) of the original image.

        Returns:
          float64 [B, 4], in pixels of the resized image.
        """
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Any) -> Any:
        """Resizes a batch of images bilinearly, with antialiasing.

        The result is close to `apply_image` but not equal. segment-anything's own method mistakes B
        and C for height and width; this one resizes the images.

        Args:
          image: float [B, C, H, W].

        Returns:
          float32 [B, C, h, w].
        """
        pixels = np.asarray(to_numpy(image), np.float32)
        shape = (*pixels.shape[:2], *compute_fitted_size(pixels.shape[2:], self.target_length))
        return make_converter(image)(
            np.array(jax.image.resize(pixels, shape, "bilinear", antialias=True))
        )

    def apply_coords_torch(self, coords: Any, original_size: tuple[int, int]) -> Any:
        """Applies `apply_coords` to a tensor [.., 2] and returns float32."""
        return make_converter(coords)(
            self.apply_coords(to_numpy(coords), original_size).astype(np.float32)
        )

    def apply_boxes_torch(self, boxes: Any, original_size: tuple[int, int]) -> Any:
        """Applies `apply_boxes` to a tensor [B, 4] and returns float32."""
        return make_converter(boxes)(
            self.apply_boxes(to_numpy(boxes), original_size).astype(np.float32)
        )

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """Returns (h, w) of an image of oldh x oldw after resizing.

        Args:
          oldh: Height of the image.
          oldw: Width of the image.
          long_side_length: Longest side of the resized image.
        """
        return compute_fitted_size((oldh, oldw), long_side_length)
