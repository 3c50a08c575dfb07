"""RoIAlign: pools regions by bilinear samples at exact positions (Mask R-CNN, section 3).

The rule is exactly that of torchvision and detectron2. Two programs implement it:

* `gather` adds up samples one by one, for all regions at once. Each sample looks up four cells. It
  reads only the cells it needs. Its gradient scatters them, in no fixed order on a GPU.
* `matmul` uses that the samples of a region form a grid. A pooled region is the product (bins x
  rows) (map) (columns x bins). Regions of one level are pooled several at a time. It reads whole
  maps, but its results and gradients have the same bits every time, and the number of samples
  costs nothing.

Neither pools a region on a level other than its own, and neither needs to bound the samples.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.ops.boxes import check_box_shape
from segjax.ops.roi.align_matmul import pool_by_products
from segjax.ops.roi.pyramid import flatten_levels, look_up_levels
from segjax.ops.roi.samples import (
    Axis,
    Grid,
    interpolation_taps,
    max_over_vmap,
    place_regions,
)

IMPLEMENTATIONS = ("gather", "matmul")


def roi_align(
    features: jax.Array,
    boxes: jax.Array,
    size: int | tuple[int, int],
    *,
    scale: float,
    samples: int = 0,
    aligned: bool = True,
    impl: str = "gather",
    max_samples: int | None = None,
) -> jax.Array:
    """Pools regions of one map, see `pyramid_roi_align`.

    Example:
      >>> features = jnp.arange(16.0).reshape(4, 4, 1)
      >>> roi_align(features, jnp.array([[0, 0, 4, 4]]), 2, scale=1.0)[0, ..., 0].tolist()
      [[2.5, 4.5], [10.5, 12.5]]

    Args:
      features: [h, w, C].
      boxes: [R, 4], x1 y1 x2 y2 in pixels of the image.
      size: number of bins per axis, or (down, across).
      scale: cells per pixel, 1 / stride.
      samples: as for `pyramid_roi_align`.
      aligned: as for `pyramid_roi_align`.
      impl: as for `pyramid_roi_align`.
      max_samples: as for `pyramid_roi_align`.

    Returns:
      [R, size, size, C], of the features' dtype.
    """
    boxes = jnp.asarray(boxes)
    check_box_shape(boxes)
    level = jnp.zeros(boxes.shape[0], jnp.int32)
    options = {"samples": samples, "aligned": aligned, "impl": impl, "max_samples": max_samples}
    return pyramid_roi_align([features], boxes, level, size, [scale], **options)


def pyramid_roi_align(
    levels: Sequence[jax.Array],
    boxes: jax.Array,
    level: jax.Array,
    size: int | tuple[int, int],
    scales: Sequence[float],
    *,
    samples: int = 0,
    aligned: bool = True,
    impl: str = "gather",
    max_samples: int | None = None,
    extents: jax.Array | None = None,
) -> jax.Array:
    """Pools the regions of one image, each from its level of the pyramid.

    A region is divided into size x size bins. The value of a bin is the mean of bilinear samples on
    a regular grid inside it. A sample up to one cell outside of the map takes the value of the
    border. One farther out is 0, and counts.

    Coordinates and sums are float32 for features of any dtype, but sums of float64 features are
    float64 (matmul rounds the weights of bfloat16 features). The features have a gradient, in
    reverse mode. Boxes are constants, as in PyTorch. A box with a coordinate that is not finite
    gives 0.

    Example:
      >>> levels = [jnp.ones((8, 8, 1)), 2 * jnp.ones((4, 4, 1))]  # strides 4 and 8
      >>> boxes = jnp.array([[0, 0, 16, 16], [0, 0, 32, 32]])
      >>> pooled = pyramid_roi_align(levels, boxes, jnp.array([0, 1]), 1, [1 / 4, 1 / 8])
      >>> pooled.ravel().tolist()
      [1.0, 2.0]

    Args:
      levels: [h_l, w_l, C] each.
      boxes: [R, 4], x1 y1 x2 y2 in pixels of the image, inside of it or not.
      level: int [R], indices into `levels`, see `fpn_level`.
      size: number of bins per axis, or (down, across).
      scales: cells per pixel of each level, 1 / stride.
      samples: sampling points per bin and axis. 0 takes as many as the bin has cells, rounded up,
        for each region and axis.
      aligned: the center of cell k is at k + 0.5 (detectron2). If false it is at k, and a region is
        at least one cell wide (torchvision's models).
      impl: "gather" or "matmul", see above.
      max_samples: upper bound per axis for `samples=0`. By default only a box of more than twice
        the largest map reaches it. Its bins then have fewer samples than in PyTorch.
      extents: int [levels, 2], (height, width) in cells of the part of each level at its top left
        that counts as the map. None: all of it.

    Returns:
      [R, size, size, C], of the features' dtype.

    Raises:
      ValueError: an unknown impl, boxes of another shape, or levels and scales of different number.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(
            f"RoIAlign has no impl {impl!r}; choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    size, levels = (
        (size, size) if isinstance(size, int) else tuple(size),
        tuple(map(jnp.asarray, levels)),
    )
    # The bound keeps a huge or broken box from making the loop over samples endless.
    shapes = tuple(features.shape[:2] for features in levels)
    bound = max_samples or 2 * math.ceil(max(max(shape) for shape in shapes) / min(size))
    grid = Grid(size, samples, aligned, bound)
    boxes = jax.lax.stop_gradient(jnp.asarray(boxes, jnp.float32))
    check_box_shape(boxes)
    level = jnp.clip(level, 0, len(levels) - 1)
    if not boxes.shape[0]:
        return jnp.zeros((0, *size, levels[0].shape[-1]), levels[0].dtype)
    # Pool by matrix products, level by level.
    if impl == "matmul":
        extents = jnp.array(shapes) if extents is None else extents
        return pool_by_products(levels, boxes, level, extents, grid, shapes, tuple(scales))
    # Pool by lookups. All levels become one list of cells, in which every region finds its own.
    cells, matched = flatten_levels(levels), look_up_levels(levels, scales, level, extents)
    axes = place_regions(boxes, matched.scale, (matched.height, matched.width), grid)
    return _gather(cells, _Regions(*axes, matched.start, matched.row), grid, cells.shape[0])


class _Regions(NamedTuple):
    """Regions on their levels.

    Attributes:
      y: rows.
      x: columns.
      start: int32 [R], index of the level's first cell.
      width: int32 [R], of the level.
    """

    y: Axis
    x: Axis
    start: jax.Array
    width: jax.Array


def _corners(regions: _Regions, sample: jax.Array, grid: Grid):
    """Yields the four cells around one sample of each bin of all regions.

    Args:
      regions: regions on their levels.
      sample: index of the sample. Each region counts its samples row by row.
      grid: sampling of the regions.

    Yields:
      index: int32 [R, down, across], in the list of cells.
      weight: float32 [R, down, across].
    """
    # Regions without samples have a count of 0, by which nothing can be divided.
    columns = jnp.maximum(regions.x.count, 1)
    across = interpolation_taps(regions.x, sample % columns, grid.size[1])
    for row, row_weight in interpolation_taps(regions.y, sample // columns, grid.size[0]):
        begin = regions.start[:, None] + row * regions.width[:, None]
        for column, column_weight in across:
            yield (
                begin[:, :, None] + column[:, None],
                row_weight[:, :, None] * column_weight[:, None],
            )


def _sample_count(regions: _Regions, grid: Grid) -> int | jax.Array:
    """Returns the number of samples per bin of the region with the most."""
    return grid.samples**2 if grid.samples else max_over_vmap(regions.y.count * regions.x.count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gather(cells: jax.Array, regions: _Regions, grid: Grid, total: int) -> jax.Array:
    """Pools cells [total, C] to [R, down, across, C] by lookups."""

    def add(sample, pooled):
        for index, weight in _corners(regions, sample, grid):
            pooled = pooled + cells.at[index].get(mode="promise_in_bounds") * weight[..., None]
        return pooled

    dtype = jnp.promote_types(cells.dtype, jnp.float32)
    pooled = jnp.zeros((regions.start.shape[0], *grid.size, cells.shape[-1]), dtype)
    return jax.lax.fori_loop(0, _sample_count(regions, grid), add, pooled).astype(cells.dtype)


def _gather_forward(cells, regions, grid, total):
    return _gather(cells, regions, grid, total), regions


def _gather_backward(grid, total, regions, cotangent):
    def spread(sample, gradient):
        for index, weight in _corners(regions, sample, grid):
            part = cotangent * weight[..., None]
            gradient = gradient.at[index].add(part, mode="promise_in_bounds")
        return gradient

    dtype = jnp.promote_types(cotangent.dtype, jnp.float32)
    gradient = jnp.zeros((total, cotangent.shape[-1]), dtype)
    gradient = jax.lax.fori_loop(0, _sample_count(regions, grid), spread, gradient)
    return gradient.astype(cotangent.dtype), None


_gather.defvjp(_gather_forward, _gather_backward)
