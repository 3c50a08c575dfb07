"""A feature pyramid as one list of cells, and the level that a region is pooled from (FPN, Lin et al. 2017)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.boxes import box_area

_INSIDE, _OUTSIDE = 1e-8, 1e-6  # detectron2's, before the logarithm; torchvision's, after it


class Level(NamedTuple):
    """The level that each region is pooled from: [R] each."""

    start: jax.Array  # int32, where its cells begin in `flatten_levels`
    height: jax.Array  # int32, in cells
    width: jax.Array  # int32
    scale: jax.Array  # float32, cells per pixel


def flatten_levels(levels: Sequence[jax.Array]) -> jax.Array:
    """Levels [h_l, w_l, C] -> [sum of h_l * w_l, C]: cells row by row, level after level."""
    cells = [features.reshape(-1, features.shape[-1]) for features in levels]
    return cells[0] if len(cells) == 1 else jnp.concatenate(cells)


def look_up_levels(levels: Sequence[jax.Array], scales: Sequence[float], level: jax.Array) -> Level:
    """What the regions' levels are like: levels [h_l, w_l, C], scales in cells per pixel, level int [R].

    Raises ValueError when levels and scales differ in number.
    """
    if len(levels) != len(scales):
        raise ValueError(
            f"{len(levels)} levels and {len(scales)} scales; expected one scale, 1 / stride, a level"
        )
    height, width = np.array([features.shape[:2] for features in levels], np.int32).T
    start = np.cumsum([0, *(height * width)[:-1]]).astype(np.int32)
    kinds = (start, height, width, np.array(scales, np.float32))
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
    """Place in the list of levels that each box is pooled from (FPN, equation 1).

    A box as large as `canonical_size` squared goes to `canonical_level`, one of half its side a level lower.

    Args:
      boxes: [R, 4], in pixels of the image. Boxes without extent go to the lowest level.
      lowest, highest: level l has a stride of 2 ** l pixels.
      canonical_size, canonical_level: see above.
      epsilon_inside: the logarithm is of the side plus 1e-8 canonical sizes (detectron2). False: 1e-6 is added to the
        logarithm (torchvision), which takes a box a millionth short of the next level to it.

    Returns:
      int32 [R], 0 for level `lowest` to highest - lowest.
    """
    side = jnp.sqrt(box_area(jnp.asarray(boxes, jnp.float32))) / canonical_size
    side = side + _INSIDE if epsilon_inside else jnp.maximum(side * 2.0**_OUTSIDE, _INSIDE)
    # frexp takes the exponent out of the number itself: a logarithm may fall a rounding short of a whole number.
    logarithm = jnp.frexp(side)[1] - 1
    return (jnp.clip(canonical_level + logarithm, lowest, highest) - lowest).astype(jnp.int32)
