"""RoIAlign: regions of feature maps at a fixed size, by bilinear samples at exact places (Mask R-CNN, section 3).

The rule is that of torchvision and detectron2 to the letter, and two programs follow it:

  gather  Sample by sample, all regions at once: four rows of channels are looked up and added. Reads what it needs and
          no more; its gradient adds rows up again, in no fixed order on a GPU.
  matmul  What a region takes from a map is a product, bins x rows times map times columns x bins, as the samples of a
          region form a grid. Regions of a level are pooled some at a time. Reads whole maps, but gives the same bits
          every time, gradient included, and the number of samples costs nothing.

Neither pools a region on a level that is not its own, and neither needs a bound on the number of samples.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.ops.roi.pyramid import flatten_levels, look_up_levels
from segjax.ops.roi.samples import Axis, Grid, compute_bin_weights, max_over_vmap, place_regions, interpolation_taps

IMPLEMENTATIONS = ("gather", "matmul")
_TOGETHER = 32  # regions that matmul pools at a time


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
    """Regions of one map, see `pyramid_roi_align`: features [h, w, C], boxes [R, 4] -> [R, size, size, C]."""
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
) -> jax.Array:
    """Regions of one image, each pooled from its level of the pyramid.

    A region is cut into size x size bins; a bin's value is the mean of bilinear samples on a regular grid in it. A
    sample up to one cell beyond the first or last row or column takes the border's value, one farther out is 0 and
    counts. Coordinates and sums are float32 whatever the features are (matmul rounds the weights of bfloat16 features).
    Features have a gradient, in reverse mode; boxes are constants, as in torch. A box with a coordinate that is not
    finite is 0.

    Args:
      levels: [h_l, w_l, C] each.
      boxes: [R, 4], x1 y1 x2 y2 in pixels of the image, inside it or not.
      level: int [R], place in `levels`, see `fpn_level`.
      size: bins on a side, or (down, across).
      scales: cells per pixel of each level: 1 / stride.
      samples: on a side of a bin. 0: as many as a bin has cells, rounded up, for each region and axis.
      aligned: True: cell k has its centre at k + 1/2 (detectron2). False: at k, and a region is at least one cell wide
        (torchvision's models).
      impl: "gather" or "matmul", see above.
      max_samples: bounds `samples=0`, on a side. By default it takes a box of more than twice the largest map to reach
        the bound; then fewer samples are spread over a bin than torch takes.

    Returns:
      [R, size, size, C] of the features' type.

    Raises:
      ValueError: an unknown impl, levels and scales of different number.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(
            f"RoIAlign has no impl {impl!r}; choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    size, levels = (
        (size, size) if isinstance(size, int) else tuple(size),
        tuple(map(jnp.asarray, levels)),
    )
    shapes = tuple(features.shape[:2] for features in levels)
    bound = max_samples or 2 * math.ceil(max(max(shape) for shape in shapes) / min(size))
    grid = Grid(size, samples, aligned, bound)
    boxes = jax.lax.stop_gradient(jnp.asarray(boxes, jnp.float32))
    level = jnp.clip(level, 0, len(levels) - 1)
    if not boxes.shape[0]:
        return jnp.zeros((0, *size, levels[0].shape[-1]), levels[0].dtype)
    if impl == "matmul":
        return _multiplied(levels, boxes, level, grid, shapes, tuple(scales))
    cells, of_region = flatten_levels(levels), look_up_levels(levels, scales, level)
    axes = place_regions(boxes, of_region.scale, (of_region.height, of_region.width), grid)
    return _gathered(cells, _Regions(*axes, of_region.start, of_region.width), grid, cells.shape[0])


class _Regions(NamedTuple):
    y: Axis
    x: Axis
    start: jax.Array  # int32 [R], where the cells of a region's level begin
    width: jax.Array  # int32 [R], of its level


def _corners(regions: _Regions, sample: jax.Array, grid: Grid):
    """The four cells around a sample of each bin, of all regions: pairs of a place in the list of cells, int32
    [R, down, across], and a weight. Each region numbers its samples row by row."""
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
    """Of the region with the max_over_vmap."""
    return grid.samples**2 if grid.samples else max_over_vmap(regions.y.count * regions.x.count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _gathered(cells: jax.Array, regions: _Regions, grid: Grid, total: int) -> jax.Array:
    """[total, C] -> [R, down, across, C]."""

    def add(sample, pooled):
        for place, weight in _corners(regions, sample, grid):
            pooled = pooled + cells.at[place].get(mode="promise_in_bounds") * weight[..., None]
        return pooled

    pooled = jnp.zeros((regions.start.shape[0], *grid.size, cells.shape[-1]), jnp.float32)
    return jax.lax.fori_loop(0, _sample_count(regions, grid), add, pooled).astype(cells.dtype)


def _gathered_forward(cells, regions, grid, total):
    return _gathered(cells, regions, grid, total), regions


def _gathered_backward(grid, total, regions, cotangent):
    def spread(sample, gradient):
        for place, weight in _corners(regions, sample, grid):
            part = cotangent * weight[..., None]
            gradient = gradient.at[place].add(part, mode="promise_in_bounds")
        return gradient

    gradient = jnp.zeros((total, cotangent.shape[-1]), jnp.float32)
    gradient = jax.lax.fori_loop(0, _sample_count(regions, grid), spread, gradient)
    return gradient.astype(cotangent.dtype), None


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _level_by_level(work, carry, boxes, level, grid, shapes, scales):
    """Folds `work(number of the level, place of the first region, rows, columns, carry)` over regions sorted by level,
    some of one level at a time; rows [T, down, h], columns [T, across, w]. Rows of regions of the next level are 0, and
    so are those of turns that other images need; what they leave behind the level's last place is the next one's."""
    regions, together = boxes.shape[0], min(_TOGETHER, boxes.shape[0])
    order, ends = jnp.argsort(level), jnp.cumsum(jnp.bincount(level, length=len(shapes)))

    def fold(number, carry):
        begin, end = ends[number - 1] if number else 0, ends[number]

        def step(turn, carry):
            first = begin + turn * together
            place = first + jnp.arange(together)
            some = boxes[order[jnp.minimum(place, regions - 1)]]
            axes = place_regions(some, jnp.float32(scales[number]), shapes[number], grid)
            rows, columns = (
                compute_bin_weights(*axis) for axis in zip(axes, grid.size, shapes[number], strict=True)
            )
            return work(
                number, first, jnp.where((place < end)[:, None, None], rows, 0), columns, carry
            )

        return jax.lax.fori_loop(0, max_over_vmap((end - begin + together - 1) // together), step, carry)

    for number in range(len(shapes)):
        carry = fold(number, carry)
    return order, carry


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _multiplied(levels, boxes, level, grid, shapes, scales):
    def pool(number, first, rows, columns, pooled):
        kind = levels[number].dtype
        strips = _product("rpy,yxc->rpxc", rows.astype(kind), levels[number])
        part = _product("rqx,rpxc->rpqc", columns.astype(kind), strips.astype(kind))
        return jax.lax.dynamic_update_slice_in_dim(pooled, part.astype(kind), first, 0)

    pooled = _room(boxes, grid, levels[0])
    order, pooled = _level_by_level(pool, pooled, boxes, level, grid, shapes, scales)
    return pooled[jnp.argsort(order)]


def _multiplied_forward(levels, boxes, level, grid, shapes, scales):
    return _multiplied(levels, boxes, level, grid, shapes, scales), (boxes, level)


def _multiplied_backward(grid, shapes, scales, residuals, cotangent):
    boxes, level = residuals
    kind, channels = cotangent.dtype, cotangent.shape[-1]
    sorted_cotangent = (
        _room(boxes, grid, cotangent).at[: boxes.shape[0]].set(cotangent[jnp.argsort(level)])
    )

    def spread(number, first, rows, columns, gradients):
        part = jax.lax.dynamic_slice_in_dim(sorted_cotangent, first, rows.shape[0])
        strips = _product("rqx,rpqc->rpxc", columns.astype(kind), part)
        gradient = gradients[number] + _product(
            "rpy,rpxc->yxc", rows.astype(kind), strips.astype(kind)
        )
        return (*gradients[:number], gradient, *gradients[number + 1 :])

    gradients = tuple(jnp.zeros((*shape, channels), jnp.float32) for shape in shapes)
    _, gradients = _level_by_level(spread, gradients, boxes, level, grid, shapes, scales)
    return tuple(gradient.astype(kind) for gradient in gradients), None, None


_multiplied.defvjp(_multiplied_forward, _multiplied_backward)


def _room(boxes, grid, like):
    """For all regions, and for those beyond the last that are pooled with it."""
    return jnp.zeros(
        (boxes.shape[0] + min(_TOGETHER, boxes.shape[0]), *grid.size, like.shape[-1]), like.dtype
    )


def _product(contraction, a, b):
    return jnp.einsum(contraction, a, b, precision="highest", preferred_element_type=jnp.float32)
