"""Exact Euclidean distance transform on the device, and the click it places in evaluation.

The transform is separable (Felzenszwalb and Huttenlocher 2012). Distances along rows come first,
then a minimum of `dy**2 + row_distance**2` along columns. Squared distances are integers, so they
and their ties are exact.
"""

import jax
import jax.numpy as jnp
from jax import lax

# Column offsets per pass over the array. Four save passes over memory and waste little work.
_OFFSETS_PER_STEP = 4


def distance_transform(mask: jax.Array) -> jax.Array:
    """Computes the Euclidean distance of each pixel to the nearest False one, in pixels.

    The border counts as False (a zero pad of 1 pixel, as in RITM's evaluation). The result equals
    `scipy.ndimage.distance_transform_edt` of the padded mask.

    Example:
      >>> distance_transform(jnp.ones((1, 3), bool))
      Array([[1., 1., 1.]], dtype=float32)

    Args:
      mask: bool [..., H, W].

    Returns:
      float32 [..., H, W]. It is 0 on False pixels.
    """
    return jnp.sqrt(squared_distance_transform(mask).astype(jnp.float32))


def squared_distance_transform(mask: jax.Array) -> jax.Array:
    """Computes the exact squared distance of each pixel to the nearest False one.

    The border counts as False.

    Args:
      mask: bool [..., H, W].

    Returns:
      int32 [..., H, W], in square pixels.
    """
    mask = mask.astype(bool)
    along_row = _row_distance(mask)
    squared = along_row * along_row
    height = mask.shape[-2]
    # The nearest False pixel is at most the row distance away, and at most half the height. Larger
    # offsets cannot win. Small objects, the usual case, need few offsets.
    farthest = jnp.minimum(jnp.max(along_row), (height + 1) // 2)
    reach = (height + 1) // 2 + _OFFSETS_PER_STEP
    padded = jnp.pad(squared, [(0, 0)] * (mask.ndim - 2) + [(reach, reach), (0, 0)])
    axis = mask.ndim - 2

    def try_offsets(step, nearest):
        for k in range(_OFFSETS_PER_STEP):
            offset = step * _OFFSETS_PER_STEP + k + 1
            above = lax.dynamic_slice_in_dim(padded, reach - offset, height, axis)
            below = lax.dynamic_slice_in_dim(padded, reach + offset, height, axis)
            nearest = jnp.minimum(nearest, jnp.minimum(above, below) + offset * offset)
        return nearest

    steps = (farthest + _OFFSETS_PER_STEP - 1) // _OFFSETS_PER_STEP
    return lax.fori_loop(0, steps, try_offsets, squared)


def choose_center_click(
    ground_truth: jax.Array, prediction: jax.Array, clicked: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Chooses the next click of interactive evaluation: the deepest pixel of the larger error.

    Distances are computed within the false negatives and within the false positives. Pixels that
    were clicked before count 0. The kind of error with the larger maximum gets the click, and a tie
    goes to the false positives. Among equal pixels the first in row-major order wins (RITM
    `Clicker`, Sofiiuk et al. 2021; SAM, section 7.1). If the prediction is empty, the click is at
    the center of the ground truth, which is the protocol's first click.

    Args:
      ground_truth: bool [..., H, W].
      prediction: bool [..., H, W].
      clicked: bool [..., H, W], True at pixels that already have a click.

    Returns:
      xy: float32 [..., 2], (column, row) of the click, or (0, 0) if there is none.
      label: int32 [...]. 1 on a missed pixel, 0 on a wrongly covered one, and -1 (padding) if no
        wrong pixel is left to click.
    """
    ground_truth, prediction = ground_truth.astype(bool), prediction.astype(bool)
    free = True if clicked is None else ~clicked.astype(bool)
    # Both kinds of error in one call: half the program to compile, and half the steps to launch.
    errors = jnp.stack([ground_truth & ~prediction, prediction & ~ground_truth])
    depth = jnp.where(free, squared_distance_transform(errors), 0)
    depth = depth.reshape(*depth.shape[:-2], -1)
    missed_depth, covered_depth = jnp.max(depth, axis=-1)
    missed_index, covered_index = jnp.argmax(depth, axis=-1)
    positive = missed_depth > covered_depth
    found = jnp.maximum(missed_depth, covered_depth) > 0
    index = jnp.where(found, jnp.where(positive, missed_index, covered_index), 0)
    width = ground_truth.shape[-1]
    xy = jnp.stack([index % width, index // width], axis=-1).astype(jnp.float32)
    return xy, jnp.where(found, positive.astype(jnp.int32), -1)


def _row_distance(mask: jax.Array) -> jax.Array:
    """Computes the distance to the nearest False pixel of the same row, borders included.

    Args:
      mask: bool [..., H, W].

    Returns:
      int32 [..., H, W], in pixels.
    """
    columns = jnp.moveaxis(mask, -1, 0)

    def count(runs, column_pair):
        runs = jnp.where(jnp.stack(column_pair), runs + 1, 0)
        return runs, (runs[0], runs[1])

    # One scan counts from the left and from the right.
    start = jnp.zeros((2, *columns.shape[1:]), jnp.int32)
    _, (from_left, from_right) = lax.scan(count, start, (columns, columns[::-1]))
    return jnp.moveaxis(jnp.minimum(from_left, from_right[::-1]), 0, -1)
