"""Anchors, the boxes that a region proposal network starts from: NumPy constants of a model and an image size.

The two families of published models differ. detectron2: cell anchors as they come, strides 4, 8 ... 64 of the levels.
torchvision: cell anchors rounded to whole pixels, strides `image // grid` of each image, which on the coarsest level of
an image of 800 rows is 61 and not 64.
"""

from collections.abc import Sequence

import numpy as np


def make_cell_anchors(
    size: float | Sequence[float], ratios: Sequence[float], rounded: bool = False
) -> np.ndarray:
    """Anchors of one cell of the map, around (0, 0).

    Args:
      size: square root of their area, in pixels; several sizes give all ratios of the first, then of the second ...
      ratios: height over width.
      rounded: to whole pixels, halves to the even one, as torchvision does.

    Returns:
      float32 [sizes * ratios, 4], x1 y1 x2 y2.
    """
    sizes, ratios = np.atleast_1d(np.asarray(size, float))[:, None], np.asarray(ratios, float)
    width, height = sizes / np.sqrt(ratios), sizes * np.sqrt(ratios)
    half = np.stack([width, height], axis=-1).reshape(-1, 2).astype(np.float32) / 2
    half = np.round(half) if rounded else half
    return np.concatenate([-half, half], axis=-1)


def make_grid_anchors(
    cell: np.ndarray, grid: tuple[int, int], stride_yx: tuple[float, float], offset: float = 0.0
) -> np.ndarray:
    """A cell's anchors put on every cell of a map.

    Args:
      cell: [A, 4], from `make_cell_anchors`.
      grid: (h, w) of the map.
      stride_yx: pixels from one cell to the next, down and across.
      offset: of the first cell's centre from the image's corner, in strides; published models have 0.

    Returns:
      float32 [h * w * A, 4], in pixels of the image: row by row, in a row cell by cell, in a cell in its order.
    """
    y, x = (
        (np.arange(count) + offset) * stride for count, stride in zip(grid, stride_yx, strict=True)
    )
    x, y = np.meshgrid(x, y)
    shift = np.stack([x, y, x, y], axis=-1).astype(np.float32)
    return (shift[:, :, None] + cell).reshape(-1, 4)
