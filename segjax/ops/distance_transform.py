"""Exact Euclidean distance transform on the device, and the click it places for interactive evaluation.

The transform separates (Felzenszwalb and Huttenlocher 2012): distances along rows first, then along columns a
minimum of `dy**2 + row_distance**2`. All squared distances are integers, hence exact, and so are ties between pixels.
"""

import jax
import jax.numpy as jnp
from jax import lax

_OFFSETS_PER_STEP = (
    4  # column offsets tried per pass over the array: fewer passes over memory, little waste
)


def distance_transform(mask: jax.Array) -> jax.Array:
    """Euclidean distance of each pixel to the nearest False one, in pixels.

    The border counts as False (a 1-pixel zero pad, as RITM evaluates); equals
    `scipy.ndimage.distance_transform_edt` of the padded mask.

    Args:
      mask: bool [..., H, W].

    Returns:
      float32 [..., H, W]; 0 on False pixels.
    """
    return jnp.sqrt(squared_distance_transform(mask).astype(jnp.float32))


def squared_distance_transform(mask: jax.Array) -> jax.Array:
    """Exact squared distance of each pixel to the nearest False one, the border counting as False.

    Args:
      mask: bool [..., H, W].

    Returns:
      int32 [..., H, W].
    """
    mask = mask.astype(bool)
    along_row = _row_distance(mask)
    squared = along_row * along_row
    height = mask.shape[-2]
    # No pixel is farther from a False one than its row distance, nor than half the height: offsets beyond cannot
    # win. Small objects, the usual case, need few.
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
    truth: jax.Array, prediction: jax.Array, clicked: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The click of RITM's and SAM's evaluation: the pixel deepest inside the larger error of a prediction.

    Distances are taken within the false negatives and within the false positives; pixels clicked before count 0;
    the kind with the larger maximum gets the click, a tie goes to the false positives; among equal pixels the first
    in row-major order wins (RITM `Clicker`, Sofiiuk et al. 2021; SAM, section 7.1). With an empty prediction this
    is the centre of the truth, the protocol's first click.

    Args:
      truth: bool [..., H, W].
      prediction: bool [..., H, W].
      clicked: bool [..., H, W], True at pixels that already carry a click.

    Returns:
      xy: float32 [..., 2], pixel indices (column, row) of the click; (0, 0) where there is none.
      label: int32 [...], 1 on a missed pixel, 0 on a wrongly covered one, -1 (padding) where nothing is left
        to click: the prediction is right, or every wrong pixel was clicked before.
    """
    truth, prediction = truth.astype(bool), prediction.astype(bool)
    free = True if clicked is None else ~clicked.astype(bool)
    # Both kinds in one call: half the program to compile, and half the steps to launch.
    depth = jnp.where(
        free, squared_distance_transform(jnp.stack([truth & ~prediction, prediction & ~truth])), 0
    )
    depth = depth.reshape(*depth.shape[:-2], -1)
    missed_depth, covered_depth = jnp.max(depth, axis=-1)
    missed_index, covered_index = jnp.argmax(depth, axis=-1)
    positive = missed_depth > covered_depth
    found = jnp.maximum(missed_depth, covered_depth) > 0
    index = jnp.where(found, jnp.where(positive, missed_index, covered_index), 0)
    width = truth.shape[-1]
    xy = jnp.stack([index % width, index // width], axis=-1).astype(jnp.float32)
    return xy, jnp.where(found, positive.astype(jnp.int32), -1)


def _row_distance(mask: jax.Array) -> jax.Array:
    """Distance to the nearest False pixel of the same row, border included: int32, the shape of mask [..., H, W]."""
    columns = jnp.moveaxis(mask, -1, 0)

    def count(runs, column_pair):
        runs = jnp.where(jnp.stack(column_pair), runs + 1, 0)
        return runs, (runs[0], runs[1])

    start = jnp.zeros((2, *columns.shape[1:]), jnp.int32)
    _, (from_left, from_right) = lax.scan(count, start, (columns, columns[::-1]))
    return jnp.moveaxis(jnp.minimum(from_left, from_right[::-1]), 0, -1)
