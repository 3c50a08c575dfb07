"""Levels of a feature pyramid as one list of cells, and the level of a region (FPN, 1612.03144)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.boxes import box_area

# detectron2 adds its epsilon before the logarithm, torchvision after it.
_INSIDE, _OUTSIDE = 1e-8, 1e-6


class Level(NamedTuple):
    """The level that each region is pooled from.

    Attributes:
      start: int32 [R], index of its first cell in `flatten_levels`.
      row: int32 [R], cells of a row in `flatten_levels`.
      height: int32 [R], of its valid part in cells.
      width: int32 [R], of its valid part in cells.
      scale: float32 [R], cells per pixel.
    """

    start: jax.Array
    row: jax.Array
    height: jax.Array
    width: jax.Array
    scale: jax.Array


def flatten_levels(levels: Sequence[jax.Array]) -> jax.Array:
    """Concatenates levels [h_l, w_l, C] to one list of cells, [sum of h_l * w_l, C]."""
    cells = [features.reshape(-1, features.shape[-1]) for features in levels]
    return cells[0] if len(cells) == 1 else jnp.concatenate(cells)


def look_up_levels(
    levels: Sequence[jax.Array],
    scales: Sequence[float],
    level: jax.Array,
    extents: jax.Array | None = None,
) -> Level:
    """Looks up position, size and scale of the level of each region.

    Args:
      levels: [h_l, w_l, C] each.
      scales: cells per pixel of each level, 1 / stride.
      level: int [R], indices into `levels`.
      extents: int [levels, 2], (height, width) of the valid part of each level. None: all of it.

    Raises:
      ValueError: levels and scales differ in number.
    """
    if len(levels) != len(scales):
        raise ValueError(
            f"{len(levels)} levels and {len(scales)} scales; expected one scale, 1 / stride, per "
            "level"
        )
    shapes = np.array([features.shape[:2] for features in levels], np.int32)
    start = np.cumsum([0, *shapes.prod(axis=1)[:-1]]).astype(np.int32)
    extents = shapes if extents is None else extents
    kinds = (start, shapes[:, 1], *jnp.asarray(extents).T, np.array(scales, np.float32))
    return Level(*(jnp.asarray(kind)[level] for kind in kinds))


def fpn_level(
    boxes: jax.Array,
    lowest: int = 2,
    highest: int = 5,
    *,
    canonical_size: float = 224,
    canonical_level: int = 4,
    epsilon_inside: bool = True,
) -> jax.Array:
    """Computes the pyramid level that each box is pooled from (FPN, equation 1).

    A box of side `canonical_size` belongs to `canonical_level`, and one of half that side to the
    level below.

    Example:
      >>> fpn_level(jnp.array([[0, 0, 224, 224], [0, 0, 112, 112]])).tolist()  # P4 and P3
      [2, 1]

    Args:
      boxes: [R, 4], pixels of the image. Degenerate boxes belong to the lowest level.
      lowest: number of the lowest level. Level l has a stride of 2 ** l pixels.
      highest: number of the highest level.
      canonical_size: side in pixels.
      canonical_level: number of the level of such a box.
      epsilon_inside: add 1e-8 to the relative side, before the logarithm (detectron2). If false,
        add 1e-6 to the logarithm (torchvision). A box a millionth short of the next level then
        belongs to it.

    Returns:
      int32 [R], 0 for level `lowest` to highest - lowest.
    """
    side = jnp.sqrt(box_area(jnp.asarray(boxes, jnp.float32))) / canonical_size
    side = side + _INSIDE if epsilon_inside else jnp.maximum(side * 2.0**_OUTSIDE, _INSIDE)
    # frexp reads the exponent of the number. A computed logarithm could round to just below a whole
    # number.
    logarithm = jnp.frexp(side)[1] - 1
    return (jnp.clip(canonical_level + logarithm, lowest, highest) - lowest).astype(jnp.int32)
