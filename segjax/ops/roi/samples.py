"""Sampling points of RoIAlign and the weights of the cells around them, one axis at a time.

The sampling points of a region form a grid, and the test if one is inside the map is separate for
each axis. Rows and columns can therefore be computed on their own. The weight of a cell is the
product of the weights of its row and its column.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Grid(NamedTuple):
    """Sampling of regions, see `pyramid_roi_align`.

    Attributes:
      size: (down, across), number of bins.
      samples: per bin and axis, 0 for as many as a bin has cells.
      aligned: shift by half a pixel.
      max_samples: upper bound if `samples` is 0.
    """

    size: tuple[int, int]
    samples: int
    aligned: bool
    max_samples: int


class Axis(NamedTuple):
    """One axis of regions, in cells of their maps.

    Attributes:
      low: float32 [R], start of the region.
      bin: float32 [R], length of a bin.
      count: int32 [R], sampling points per bin, 0 for regions that are not pooled.
      length: int32 [R], cells of the map.
    """

    low: jax.Array
    bin: jax.Array
    count: jax.Array
    length: jax.Array


def place_regions(
    boxes: jax.Array, scale: jax.Array, shape: Sequence[jax.Array], grid: Grid
) -> tuple[Axis, Axis]:
    """Places the sampling grid of each region on its map.

    Args:
      boxes: float32 [R, 4], pixels of the image.
      scale: [R], cells per pixel of each region's map.
      shape: height and width of each region's map in cells, [R] each.
      grid: sampling of the regions.

    Returns:
      The axes down and across.
    """
    return tuple(
        _place(
            boxes[:, axis], boxes[:, axis + 2], scale, shape[1 - axis], grid.size[1 - axis], grid
        )
        for axis in (1, 0)
    )


def _place(
    low: jax.Array, high: jax.Array, scale: jax.Array, length: jax.Array, bins: int, grid: Grid
) -> Axis:
    """Places one axis. `low` and `high` are [R], pixels of the image."""
    usable = jnp.isfinite(low) & jnp.isfinite(high)
    # All positions far outside of any map are equal. The clipping keeps products finite.
    low, high = (
        jnp.clip(jnp.where(usable, side, 0), -1e7, 1e7) * scale - grid.aligned * 0.5
        for side in (low, high)
    )
    extent = high - low if grid.aligned else jnp.maximum(high - low, 1)
    bin = extent / bins
    count = (
        jnp.clip(_divide_up(extent, bins), 0, grid.max_samples)
        if not grid.samples
        else grid.samples
    )
    return Axis(low, bin, jnp.where(usable, count, 0), jnp.broadcast_to(length, low.shape))


def _divide_up(extent: jax.Array, bins: int) -> jax.Array:
    """Computes ceil(extent / bins), int32."""
    # XLA multiplies by the inverse of a constant, which makes 21 / 7 slightly more than 3.
    quotient = jnp.clip(jnp.round(extent / bins), 0, 1e7)
    return (quotient + (quotient * bins < extent)).astype(jnp.int32)


@jax.custom_batching.custom_vmap
def max_over_vmap(count: jax.Array) -> jax.Array:
    """Returns the largest of some numbers, int32 [...], over vmapped axes too.

    It is the number of iterations of a loop that vmapped images share. With a number of its own for
    each image, every iteration would copy the state of the loop, the gradient of a whole pyramid.
    """
    return jnp.max(count, initial=0)


@max_over_vmap.def_vmap
def _(axis_size: int, is_mapped: list[bool], count: jax.Array) -> tuple[jax.Array, bool]:
    return max_over_vmap(count), False


def interpolation_taps(
    axis: Axis, sample: jax.Array, bins: int
) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """Computes the two cells around a sampling point of each bin, and their weights.

    The weights are those of the bin's mean.

    Args:
      axis: regions on one axis.
      sample: int [R] or one number, index of the sampling point in its bin. Weights are 0 beyond
        the last one.
      bins: number of bins.

    Returns:
      Two pairs of a cell, int32 [R, bins], and its weight, float32 [R, bins].
    """
    low, bin, count, length = (of_region[:, None] for of_region in axis)
    sample = jnp.broadcast_to(sample, axis.low.shape)[:, None]
    share = 1 / jnp.maximum(count, 1).astype(jnp.float32)
    # Positions of the sampling points in cells
    position = low + jnp.arange(bins) * bin + (sample + 0.5) * bin * share
    inside = (position >= -1) & (position <= length) & (sample < count)
    # Up to one cell outside of the map, a point takes the value of the border.
    position = jnp.clip(position, 0, length - 1)
    cell = jnp.floor(position)
    fraction = position - cell
    cell, share = cell.astype(jnp.int32), jnp.where(inside, share, 0)
    return (cell, share * (1 - fraction)), (jnp.minimum(cell + 1, length - 1), share * fraction)


def compute_bin_weights(axis: Axis, bins: int, length: int) -> jax.Array:
    """Computes the weight of each cell of an axis in the mean of each bin.

    Args:
      axis: regions on one axis.
      bins: number of bins.
      length: cells of the map.

    Returns:
      float32 [R, bins, length], summed over all sampling points.
    """
    cells = jnp.arange(length)

    def add(sample, weights):
        for cell, weight in interpolation_taps(axis, sample, bins):
            weights = weights + jnp.where(cell[..., None] == cells, weight[..., None], 0)
        return weights

    return jax.lax.fori_loop(
        0, max_over_vmap(axis.count), add, jnp.zeros((axis.low.shape[0], bins, length), jnp.float32)
    )
