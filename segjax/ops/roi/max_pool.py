"""What RoIAlign is compared with: regions whose edges are rounded to cells (Mask R-CNN, section 4.2, table 2c and d).

RoIPool (Girshick 2015) rounds a region and then each of its bins, and takes a bin's maximum. RoIWarp (Dai et al. 2016)
samples as RoIAlign does, in a region that is rounded: `roi_align` with boxes from `round_to_cells`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.ops.roi.pyramid import flatten_levels, look_up_levels
from segjax.ops.roi.samples import max_over_vmap


def round_to_cells(boxes: jax.Array, scale: float | jax.Array) -> jax.Array:
    """Boxes with every edge on the nearest edge of a cell, at least one cell wide and high.

    Args:
      boxes: [R, 4], in pixels of the image. scale: cells per pixel, one number or of each region [R].

    Returns:
      float32 [R, 4], in pixels of the image.
    """
    scale = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), boxes.shape[:1])[:, None]
    low, high = jnp.split(_round(jnp.asarray(boxes, jnp.float32) * scale), 2, axis=-1)
    return jnp.concatenate([low, jnp.maximum(high, low + 1)], axis=-1) / scale


def roi_pool(
    features: jax.Array, boxes: jax.Array, size: int | tuple[int, int], *, scale: float
) -> jax.Array:
    """Regions of one map, see `pyramid_roi_pool`: features [h, w, C], boxes [R, 4] -> [R, size, size, C]."""
    return pyramid_roi_pool([features], boxes, jnp.zeros(boxes.shape[0], jnp.int32), size, [scale])


def pyramid_roi_pool(
    levels: Sequence[jax.Array],
    boxes: jax.Array,
    level: jax.Array,
    size: int | tuple[int, int],
    scales: Sequence[float],
) -> jax.Array:
    """Regions of one image at a fixed size: the maximum of the cells of each bin (Fast R-CNN, section 2.1).

    torchvision's rule: a region goes from the cell that its first corner is rounded to, to the one of its second, both
    included; a bin begins and ends on whole cells, so bins overlap; one that has no cell in the map is 0. The gradient
    goes to the cell that is the maximum, of equal ones the first. Boxes are constants.

    Args:
      levels: [h_l, w_l, C] each.
      boxes: [R, 4], x1 y1 x2 y2 in pixels of the image. One with a coordinate that is not finite is 0.
      level: int [R], place in `levels`, see `pyramid.fpn_level`.
      size: bins on a side, or (down, across).
      scales: cells per pixel of each level.

    Returns:
      [R, size, size, C] of the features' type.
    """
    down, across = (size, size) if isinstance(size, int) else size
    cells = flatten_levels(tuple(map(jnp.asarray, levels)))
    start, height, width, scale = look_up_levels(levels, scales, jnp.clip(level, 0, len(levels) - 1))
    boxes = jax.lax.stop_gradient(jnp.asarray(boxes, jnp.float32))
    usable = jnp.all(jnp.isfinite(boxes), axis=-1)
    x1, y1, x2, y2 = _round(
        jnp.clip(jnp.where(usable[:, None], boxes, 0), -1e7, 1e7) * scale[:, None]
    ).T
    bins = _Bins(*_edges(y1, y2, down, height), *_edges(x1, x2, across, width), start, width)
    bins = bins._replace(bottom=jnp.where(usable[:, None], bins.bottom, bins.top))
    return _maximum(cells, bins, cells.shape[0])


class _Bins(NamedTuple):
    """Edges of the bins in cells, int32: first and behind the last, [R, down] and [R, across]; of their level [R]."""

    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array
    start: jax.Array
    width: jax.Array


def _round(x: jax.Array) -> jax.Array:
    """To the nearest whole number, halves away from 0, as C does."""
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def _edges(
    low: jax.Array, high: jax.Array, bins: int, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    low, high = low.astype(jnp.int32)[:, None], high.astype(jnp.int32)[:, None]
    cells, bin = jnp.maximum(high - low + 1, 1), jnp.arange(bins)
    # In whole numbers: 7 cells in 3 bins are 2.3333 each, and three of those may come out as 7.0000005, rounded to 8.
    first, last = bin * cells // bins, ((bin + 1) * cells + bins - 1) // bins
    return tuple(jnp.clip(low + edge, 0, length[:, None]) for edge in (first, last))


def _sides(bins: _Bins) -> tuple[jax.Array, jax.Array]:
    """Cells of each region's largest bin, down and across: int32 [R] each."""
    return jnp.max(bins.bottom - bins.top, axis=1), jnp.max(bins.right - bins.left, axis=1)


def _cell_of_each(bins: _Bins, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A cell of every bin, numbered row by row in its region's largest: place in the list of cells and whether it is
    one of the bin's, [R, down, across] each."""
    across = jnp.maximum(_sides(bins)[1], 1)[:, None]
    row, column = bins.top + number // across, bins.left + number % across
    inside = (row < bins.bottom)[:, :, None] & (column < bins.right)[:, None]
    place = (
        bins.start[:, None, None] + row[:, :, None] * bins.width[:, None, None] + column[:, None]
    )
    return jnp.where(inside, place, 0), inside


def _for_all_cells(bins: _Bins, work, carry):
    down, across = _sides(bins)
    return jax.lax.fori_loop(0, max_over_vmap(down * across), work, carry)


def _search(cells: jax.Array, bins: _Bins) -> tuple[jax.Array, jax.Array]:
    """The largest value of each bin and channel and its place, -1 where there is none: [R, down, across, C]."""

    def compare(number, best):
        value, place = best
        at, inside = _cell_of_each(bins, number)
        found = cells.at[at].get(mode="promise_in_bounds")
        better = inside[..., None] & ((found > value) | (place < 0))
        return jnp.where(better, found, value), jnp.where(better, at[..., None], place)

    shape = (*bins.top.shape, bins.left.shape[1], cells.shape[-1])
    return _for_all_cells(bins, compare, (jnp.zeros(shape, cells.dtype), jnp.full(shape, -1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _maximum(cells: jax.Array, bins: _Bins, total: int) -> jax.Array:
    """[total, C] -> [R, down, across, C]."""
    return _search(cells, bins)[0]


def _maximum_forward(cells, bins, total):
    value, place = _search(cells, bins)
    return value, (bins, place)


def _maximum_backward(total, residuals, cotangent):
    bins, place = residuals

    def spread(number, gradient):
        at, inside = _cell_of_each(bins, number)
        part = jnp.where(inside[..., None] & (place == at[..., None]), cotangent, 0)
        return gradient.at[at].add(part, mode="promise_in_bounds")

    gradient = _for_all_cells(bins, spread, jnp.zeros((total, cotangent.shape[-1]), jnp.float32))
    return gradient.astype(cotangent.dtype), None


_maximum.defvjp(_maximum_forward, _maximum_backward)
