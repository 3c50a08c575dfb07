"""Anchors, the boxes that a region proposal network starts from.

The two libraries with published models differ. detectron2 leaves the anchors of a cell as they are
and uses strides of 4, 8, 16, 32 and 64. torchvision rounds them to whole pixels, and the stride is
`image // grid` for each image: 61 instead of 64 on the coarsest level of an image of 800 rows.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def make_cell_anchors(
    size: float | Sequence[float], ratios: Sequence[float], rounded: bool = False
) -> np.ndarray:
    """Makes the anchors of one cell, centered at (0, 0).

    Example:
      >>> make_cell_anchors(32, [1.0]).tolist()
      [[-16.0, -16.0, 16.0, 16.0]]

    Args:
      size: square root of an anchor's area, in pixels. With several sizes, all ratios of the first
        come before those of the second.
      ratios: heights divided by widths.
      rounded: round to whole pixels, halves to the even one, as torchvision does.

    Returns:
      float32 [sizes * ratios, 4], x1 y1 x2 y2.
    """
    sizes, ratios = np.atleast_1d(np.asarray(size, float))[:, None], np.asarray(ratios, float)
    width, height = sizes / np.sqrt(ratios), sizes * np.sqrt(ratios)
    half = np.stack([width, height], axis=-1).reshape(-1, 2).astype(np.float32) / 2
    half = np.round(half) if rounded else half
    return np.concatenate([-half, half], axis=-1)


def make_grid_anchors(
    cell: np.ndarray,
    grid: tuple[int, int],
    stride_yx: tuple[float, float] | jax.Array,
    offset: float = 0.0,
) -> np.ndarray | jax.Array:
    """Repeats the anchors of a cell at every cell of a map.

    Args:
      cell: [A, 4], from `make_cell_anchors`.
      grid: (h, w) of the map.
      stride_yx: step between cells in pixels, down and across. Numbers, or an array [2].
      offset: distance of the first cell's center from the image's corner, in strides. Published
        models have 0.

    Returns:
      float32 [h * w * A, 4], pixels of the image, ordered by row, column and anchor. A NumPy array
      if the strides are numbers.
    """
    xp = jnp if isinstance(stride_yx, jax.Array) else np
    y, x = (
        (np.arange(count) + offset) * stride for count, stride in zip(grid, stride_yx, strict=True)
    )
    x, y = xp.meshgrid(x, y)
    shift = xp.stack([x, y, x, y], axis=-1).astype(np.float32)
    return (shift[:, :, None] + cell).reshape(-1, 4)
