"""RoIAlign by matrix products, the implementation "matmul" of `segjax.ops.roi.align`.

The weights of a region's samples are products of row and column weights. A pooled region is
therefore the product of its row weights, the map, and its column weights.
"""

import functools

import jax
import jax.numpy as jnp

from segjax.ops.roi.samples import compute_bin_weights, max_over_vmap, place_regions

_CHUNK = 32  # number of regions that are pooled at a time


def _fold_levels(work, carry, boxes, level, extents, grid, shapes, scales):
    """Folds `work` over the regions, sorted by level, in chunks of one level.

    The last chunk of a level may reach into the next level, and vmapped images run as many chunks
    as the image with the most. The row weights of such surplus regions are 0. Their results lie
    behind the level's last slot, where the next level overwrites them.

    Args:
      work: function of (level, first, rows, columns, carry). `first` is the slot of the chunk's
        first region. `rows` are weights [T, down, h], `columns` are weights [T, across, w].
      carry: initial state.
      boxes: float32 [R, 4].
      level: int [R].
      extents: int [levels, 2], (height, width) of the valid part of each level.
      grid: sampling of the regions.
      shapes: (h, w) of each level.
      scales: cells per pixel of each level.

    Returns:
      order: int [R], regions sorted by level.
      carry: final state.
    """
    # Regions of level l lie in the slots ends[l - 1] to ends[l] of the sorted order.
    regions, chunk = boxes.shape[0], min(_CHUNK, boxes.shape[0])
    order, ends = jnp.argsort(level), jnp.cumsum(jnp.bincount(level, length=len(shapes)))

    def fold(number, carry):
        """Applies `work` to the regions of one level, chunk by chunk."""
        begin, end = ends[number - 1] if number else 0, ends[number]

        def step(turn, carry):
            """Applies `work` to one chunk, with weights of 0 for slots of other levels."""
            first = begin + turn * chunk
            slot = first + jnp.arange(chunk)
            boxes_of_chunk = boxes[order[jnp.minimum(slot, regions - 1)]]
            scale = jnp.float32(scales[number])
            axes = place_regions(boxes_of_chunk, scale, extents[number], grid)
            # Weights of the rows and columns of each region
            rows, columns = (
                compute_bin_weights(*axis)
                for axis in zip(axes, grid.size, shapes[number], strict=True)
            )
            return work(
                number, first, jnp.where((slot < end)[:, None, None], rows, 0), columns, carry
            )

        return jax.lax.fori_loop(0, max_over_vmap((end - begin + chunk - 1) // chunk), step, carry)

    for number in range(len(shapes)):
        carry = fold(number, carry)
    return order, carry


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def pool_by_products(levels, boxes, level, extents, grid, shapes, scales):
    """Pools levels by matrix products.

    Args:
      levels: [h_l, w_l, C] each.
      boxes: float32 [R, 4], pixels of the image.
      level: int [R], indices into `levels`.
      extents: int [levels, 2], (height, width) of the valid part of each level.
      grid: sampling of the regions.
      shapes: (h_l, w_l) of each level.
      scales: cells per pixel of each level.

    Returns:
      [R, down, across, C], of the features' dtype.
    """

    def pool(number, first, rows, columns, pooled):
        dtype = levels[number].dtype
        strips = _product("rpy,yxc->rpxc", rows.astype(dtype), levels[number])
        part = _product("rqx,rpxc->rpqc", columns.astype(dtype), strips.astype(dtype))
        return jax.lax.dynamic_update_slice_in_dim(pooled, part.astype(dtype), first, 0)

    # Pool in the order of levels, then restore the order of the regions.
    pooled = _zeros_for_regions(boxes, grid, levels[0])
    order, pooled = _fold_levels(pool, pooled, boxes, level, extents, grid, shapes, scales)
    return pooled[jnp.argsort(order)]


def _forward(levels, boxes, level, extents, grid, shapes, scales):
    pooled = pool_by_products(levels, boxes, level, extents, grid, shapes, scales)
    return pooled, (boxes, level, extents)


def _backward(grid, shapes, scales, residuals, cotangent):
    boxes, level, extents = residuals
    dtype, channels = cotangent.dtype, cotangent.shape[-1]
    sorted_cotangent = (
        _zeros_for_regions(boxes, grid, cotangent)
        .at[: boxes.shape[0]]
        .set(cotangent[jnp.argsort(level)])
    )

    def spread(number, first, rows, columns, gradients):
        part = jax.lax.dynamic_slice_in_dim(sorted_cotangent, first, rows.shape[0])
        strips = _product("rqx,rpqc->rpxc", columns.astype(dtype), part)
        gradient = gradients[number] + _product(
            "rpy,rpxc->yxc", rows.astype(dtype), strips.astype(dtype)
        )
        return (*gradients[:number], gradient, *gradients[number + 1 :])

    sums = jnp.promote_types(dtype, jnp.float32)
    gradients = tuple(jnp.zeros((*shape, channels), sums) for shape in shapes)
    _, gradients = _fold_levels(spread, gradients, boxes, level, extents, grid, shapes, scales)
    return tuple(gradient.astype(dtype) for gradient in gradients), None, None, None


pool_by_products.defvjp(_forward, _backward)


def _zeros_for_regions(boxes, grid, like):
    """Returns zeros for all regions, and for the surplus ones of the last chunk."""
    return jnp.zeros(
        (boxes.shape[0] + min(_CHUNK, boxes.shape[0]), *grid.size, like.shape[-1]), like.dtype
    )


def _product(contraction, a, b):
    """Contracts two arrays with sums of at least float32."""
    dtype = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return jnp.einsum(contraction, a, b, precision="highest", preferred_element_type=dtype)
