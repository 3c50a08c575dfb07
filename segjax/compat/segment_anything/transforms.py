"""ResizeLongestSide: pictures and prompts into the frame of the resized picture, as segment-anything calls it."""

from typing import Any

import jax
import numpy as np

from segjax.compat.segment_anything.tensors import as_given, to_numpy
from segjax.images.transforms import compute_fitted_size, resize_longest_side


class ResizeLongestSide:
    """Resizes so that the longest side is `target_length` pixels.

    Sizes are (height, width). What is given as torch tensors comes back as such, on the same device.
    """

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, C] -> uint8 [h, w, C]: Pillow's antialiased bilinear, which the model was trained with."""
        return np.array(resize_longest_side(np.ascontiguousarray(image), self.target_length))

    def apply_coords(self, coords: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """Points [.., 2], (x, y) in pixels of a picture of `original_size` -> of the resized one, float64."""
        height, width = original_size
        h, w = compute_fitted_size((height, width), self.target_length)
        return np.asarray(coords, np.float64) * (w / width, h / height)

    def apply_boxes(self, boxes: np.ndarray, original_size: tuple[int, int]) -> np.ndarray:
        """Boxes [B, 4] or [4], x1 y1 x2 y2 -> [B, 4] in the resized picture, float64."""
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_image_torch(self, image: Any) -> Any:
        """float [B, C, H, W] -> [B, C, h, w], bilinear with antialiasing; close to `apply_image`, not equal.

        segment-anything's own mistakes B and C for height and width; this one resizes.
        """
        pixels = np.asarray(to_numpy(image), np.float32)
        shape = (*pixels.shape[:2], *compute_fitted_size(pixels.shape[2:], self.target_length))
        return as_given(image)(
            np.array(jax.image.resize(pixels, shape, "bilinear", antialias=True))
        )

    def apply_coords_torch(self, coords: Any, original_size: tuple[int, int]) -> Any:
        """`apply_coords` of a tensor [.., 2], float32."""
        return as_given(coords)(
            self.apply_coords(to_numpy(coords), original_size).astype(np.float32)
        )

    def apply_boxes_torch(self, boxes: Any, original_size: tuple[int, int]) -> Any:
        """`apply_boxes` of a tensor [B, 4], float32."""
        return as_given(boxes)(self.apply_boxes(to_numpy(boxes), original_size).astype(np.float32))

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """(h, w) of a picture of oldh x oldw whose longest side becomes `long_side_length`."""
        return compute_fitted_size((oldh, oldw), long_side_length)
