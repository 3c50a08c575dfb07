"""RoIPool and rounded regions, the baselines of RoIAlign (Mask R-CNN, tables 2c and 2d).

RoIPool (Girshick 2015) rounds a region and then each of its bins, and takes the maximum of a bin.
RoIWarp (Dai et al. 2016) samples like RoIAlign in a rounded region. It is `roi_align` with boxes
from `round_to_cells`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.ops.boxes import check_box_shape
from segjax.ops.roi.pyramid import flatten_levels, look_up_levels
from segjax.ops.roi.samples import max_over_vmap


def round_to_cells(boxes: jax.Array, scale: float | jax.Array) -> jax.Array:
    """Rounds every edge of a box to the nearest edge of a cell.

    Args:
      boxes: [R, 4], pixels of the image.
      scale: cells per pixel, one number or [R].

    Returns:
      float32 [R, 4], pixels of the image, at least one cell wide and high.
    """
    scale = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), boxes.shape[:1])[:, None]
    low, high = jnp.split(_round(jnp.asarray(boxes, jnp.float32) * scale), 2, axis=-1)
    return jnp.concatenate([low, jnp.maximum(high, low + 1)], axis=-1) / scale


def roi_pool(
    features: jax.Array, boxes: jax.Array, size: int | tuple[int, int], *, scale: float
) -> jax.Array:
    """Pools regions of one map, see `pyramid_roi_pool`.

    Example:
      >>> features = jnp.arange(16.0).reshape(4, 4, 1)
      >>> roi_pool(features, jnp.array([[0, 0, 3, 3]]), 2, scale=1.0)[0, ..., 0].tolist()
      [[5.0, 7.0], [13.0, 15.0]]

    Args:
      features: [h, w, C].
      boxes: [R, 4], pixels of the image.
      size: number of bins per axis, or (down, across).
      scale: cells per pixel.

    Returns:
      [R, size, size, C].
    """
    return pyramid_roi_pool([features], boxes, jnp.zeros(boxes.shape[0], jnp.int32), size, [scale])


def pyramid_roi_pool(
    levels: Sequence[jax.Array],
    boxes: jax.Array,
    level: jax.Array,
    size: int | tuple[int, int],
    scales: Sequence[float],
    *,
    extents: jax.Array | None = None,
) -> jax.Array:
    """Pools the maximum of the cells of each bin (RoIPool; Fast R-CNN, section 2.1).

    The rule is torchvision's. Both corners of a region are rounded to cells, which it includes.
    Bins start and end at whole cells, so they overlap. A bin without a cell in the map is 0. The
    gradient flows to the cell of the maximum, of equal ones to the first. Boxes are constants.

    Args:
      levels: [h_l, w_l, C] each.
      boxes: [R, 4], x1 y1 x2 y2 in pixels of the image. A box that is not finite gives 0.
      level: int [R], indices into `levels`, see `pyramid.fpn_level`.
      size: number of bins per axis, or (down, across).
      scales: cells per pixel of each level.
      extents: as for `pyramid_roi_align`.

    Returns:
      [R, size, size, C], of the features' dtype.
    """
    down, across = (size, size) if isinstance(size, int) else size
    cells = flatten_levels(tuple(map(jnp.asarray, levels)))
    start, row, height, width, scale = look_up_levels(
        levels, scales, jnp.clip(level, 0, len(levels) - 1), extents
    )
    # Round the corners of each region to cells.
    boxes = jax.lax.stop_gradient(jnp.asarray(boxes, jnp.float32))
    check_box_shape(boxes)
    usable = jnp.all(jnp.isfinite(boxes), axis=-1)
    x1, y1, x2, y2 = _round(
        jnp.clip(jnp.where(usable[:, None], boxes, 0), -1e7, 1e7) * scale[:, None]
    ).T
    # Divide it into bins.
    bins = _Bins(*_edges(y1, y2, down, height), *_edges(x1, x2, across, width), start, row)
    # Bins of boxes that are not finite have no cells.
    bins = bins._replace(bottom=jnp.where(usable[:, None], bins.bottom, bins.top))
    return _maximum(cells, bins, cells.shape[0])


class _Bins(NamedTuple):
    """Edges of bins in cells, and the level of their region. All int32.

    Attributes:
      top: [R, down], first row.
      bottom: [R, down], one more than the last row.
      left: [R, across], first column.
      right: [R, across], one more than the last column.
      start: [R], index of the level's first cell.
      width: [R], of the level.
    """

    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array
    start: jax.Array
    width: jax.Array


def _round(x: jax.Array) -> jax.Array:
    """Rounds to the nearest whole number, halves away from 0, as in C."""
    return jnp.sign(x) * jnp.floor(jnp.abs(x) + 0.5)


def _edges(
    low: jax.Array, high: jax.Array, bins: int, length: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the first cell of each bin on one axis, and the one behind the last, [R, bins]."""
    low, high = low.astype(jnp.int32)[:, None], high.astype(jnp.int32)[:, None]
    cells, bin = jnp.maximum(high - low + 1, 1), jnp.arange(bins)
    # Integers are exact. With floats, 3 bins of 2.3333 cells may add up to 7.0000005, which rounds
    # up to 8.
    first, last = bin * cells // bins, ((bin + 1) * cells + bins - 1) // bins
    return tuple(jnp.clip(low + edge, 0, length[:, None]) for edge in (first, last))


def _sides(bins: _Bins) -> tuple[jax.Array, jax.Array]:
    """Returns height and width of each region's largest bin in cells, int32 [R] each."""
    return jnp.max(bins.bottom - bins.top, axis=1), jnp.max(bins.right - bins.left, axis=1)


def _locate_cell(bins: _Bins, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Locates one cell of every bin, counted row by row in the region's largest bin.

    Returns:
      index: int32 [R, down, across], in the list of cells.
      inside: bool [R, down, across], False if the bin has no such cell.
    """
    across = jnp.maximum(_sides(bins)[1], 1)[:, None]
    row, column = bins.top + number // across, bins.left + number % across
    inside = (row < bins.bottom)[:, :, None] & (column < bins.right)[:, None]
    index = (
        bins.start[:, None, None] + row[:, :, None] * bins.width[:, None, None] + column[:, None]
    )
    return jnp.where(inside, index, 0), inside


def _fold_cells(bins: _Bins, work, carry):
    """Folds `work(number, carry)` over the cells of the bins, one of every bin at a time."""
    down, across = _sides(bins)
    return jax.lax.fori_loop(0, max_over_vmap(down * across), work, carry)


def _search(cells: jax.Array, bins: _Bins) -> tuple[jax.Array, jax.Array]:
    """Finds the maximum of each bin and channel.

    Returns:
      value: [R, down, across, C], 0 for empty bins.
      index: int32, of the same shape, index of the cell. -1 for empty bins.
    """

    def compare(number, best):
        value, winner = best
        index, inside = _locate_cell(bins, number)
        cell = cells.at[index].get(mode="promise_in_bounds")
        # Of equal cells the first one wins, since a later one has to be larger.
        better = inside[..., None] & ((cell > value) | (winner < 0))
        return jnp.where(better, cell, value), jnp.where(better, index[..., None], winner)

    shape = (*bins.top.shape, bins.left.shape[1], cells.shape[-1])
    return _fold_cells(bins, compare, (jnp.zeros(shape, cells.dtype), jnp.full(shape, -1)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _maximum(cells: jax.Array, bins: _Bins, total: int) -> jax.Array:
    """Pools cells [total, C] to [R, down, across, C]."""
    return _search(cells, bins)[0]


def _maximum_forward(cells, bins, total):
    """Pools, and saves the index of each maximum for the gradient."""
    value, winner = _search(cells, bins)
    return value, (bins, winner)


def _maximum_backward(total, residuals, cotangent):
    """Adds each cotangent to the gradient of the cell of its maximum."""
    bins, winner = residuals

    def spread(number, gradient):
        index, inside = _locate_cell(bins, number)
        part = jnp.where(inside[..., None] & (winner == index[..., None]), cotangent, 0)
        return gradient.at[index].add(part, mode="promise_in_bounds")

    gradient = _fold_cells(bins, spread, jnp.zeros((total, cotangent.shape[-1]), jnp.float32))
    return gradient.astype(cotangent.dtype), None


_maximum.defvjp(_maximum_forward, _maximum_backward)
