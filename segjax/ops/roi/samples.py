"""Where RoIAlign takes its samples, and what each cell of the map counts in them: one axis at a time.

The samples of a region form a grid, and whether one is inside the map is asked of each axis on its own. So rows and
columns are placed apart, and the weight of a cell is the product of its row's and its column's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Grid(NamedTuple):
    """How a region is sampled: what `pyramid_roi_align` says of size (down, across), samples, aligned, max_samples."""

    size: tuple[int, int]
    samples: int
    aligned: bool
    max_samples: int


class Axis(NamedTuple):
    """One axis of regions, in cells of their maps: [R] each."""

    low: jax.Array  # where the region begins
    bin: jax.Array  # length of a bin
    count: jax.Array  # samples in a bin, 0 where nothing is to be pooled
    length: jax.Array  # cells of the map


def place_regions(
    boxes: jax.Array, scale: jax.Array, shape: Sequence[jax.Array], grid: Grid
) -> tuple[Axis, Axis]:
    """Regions on their maps, down and across: float32 boxes [R, 4], scale [R], (height, width) of the map [R] each."""
    return tuple(
        _place(
            boxes[:, axis], boxes[:, axis + 2], scale, shape[1 - axis], grid.size[1 - axis], grid
        )
        for axis in (1, 0)
    )


def _place(
    low: jax.Array, high: jax.Array, scale: jax.Array, length: jax.Array, bins: int, grid: Grid
) -> Axis:
    usable = jnp.isfinite(low) & jnp.isfinite(high)
    # What is farther out than any map is as good as there, and stays a number when it is multiplied.
    low, high = (
        jnp.clip(jnp.where(usable, side, 0), -1e7, 1e7) * scale - grid.aligned * 0.5
        for side in (low, high)
    )
    extent = high - low if grid.aligned else jnp.maximum(high - low, 1)
    bin = extent / bins
    count = (
        jnp.clip(_rounded_up(extent, bins), 0, grid.max_samples)
        if not grid.samples
        else grid.samples
    )
    return Axis(low, bin, jnp.where(usable, count, 0), jnp.broadcast_to(length, low.shape))


def _rounded_up(extent: jax.Array, bins: int) -> jax.Array:
    """ceil(extent / bins), int32. XLA multiplies with the inverse of a constant, by which 21 / 7 is more than 3."""
    quotient = jnp.clip(jnp.round(extent / bins), 0, 1e7)
    return (quotient + (quotient * bins < extent)).astype(jnp.int32)


@jax.custom_batching.custom_vmap
def max_over_vmap(count: jax.Array) -> jax.Array:
    """The largest of some numbers, int32 [...]: how often to go through a loop that all of them share.

    Images that are vmapped share it too. A number of turns of each image's own would have every turn copy what the
    loop carries, which is the gradient of a whole pyramid.
    """
    return jnp.max(count, initial=0)


@max_over_vmap.def_vmap
def _(axis_size: int, is_mapped: list[bool], count: jax.Array) -> tuple[jax.Array, bool]:
    return max_over_vmap(count), False


def interpolation_taps(axis: Axis, sample: jax.Array, bins: int) -> tuple[tuple[jax.Array, jax.Array], ...]:
    """The two cells that a sample of each bin lies between, and their weights in the bin's mean.

    Args:
      axis: [R]. sample: int [R] or one number, which one of a bin's; beyond their number all weights are 0.

    Returns:
      Two pairs of a cell, int32 [R, bins], and its weight, float32 [R, bins].
    """
    low, bin, count, length = (of_region[:, None] for of_region in axis)
    sample = jnp.broadcast_to(sample, axis.low.shape)[:, None]
    share = 1 / jnp.maximum(count, 1).astype(jnp.float32)
    at = low + jnp.arange(bins) * bin + (sample + 0.5) * bin * share
    inside = (at >= -1) & (at <= length) & (sample < count)
    at = jnp.clip(at, 0, length - 1)
    cell = jnp.floor(at)
    fraction = at - cell
    cell, share = cell.astype(jnp.int32), jnp.where(inside, share, 0)
    return (cell, share * (1 - fraction)), (jnp.minimum(cell + 1, length - 1), share * fraction)


def compute_bin_weights(axis: Axis, bins: int, length: int) -> jax.Array:
    """What each cell of an axis adds to each bin's mean: float32 [R, bins, length], which all samples are part of."""
    cells = jnp.arange(length)

    def add(sample, weights):
        for cell, weight in interpolation_taps(axis, sample, bins):
            weights = weights + jnp.where(cell[..., None] == cells, weight[..., None], 0)
        return weights

    return jax.lax.fori_loop(
        0, max_over_vmap(axis.count), add, jnp.zeros((axis.low.shape[0], bins, length), jnp.float32)
    )
