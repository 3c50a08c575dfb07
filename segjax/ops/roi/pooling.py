"""Pooling of regions by the name of a rule, for the ablations of Mask R-CNN (section 4.2).

* `roi_align`: the mean of samples at exact positions (RoIAlign).
* `roi_align_matmul`: the same rule, computed by matrix products, see `segjax.ops.roi.align`.
* `quantised`: the same samples in a region whose edges are rounded to cells. The paper calls it
  RoIWarp.
* `roi_pool`: the maximum of each bin, with the region and its bins rounded to cells (RoIPool).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from segjax.ops.roi.align import pyramid_roi_align
from segjax.ops.roi.max_pool import pyramid_roi_pool, round_to_cells

POOLINGS = ("roi_align", "roi_align_matmul", "quantised", "roi_pool")


def pool_regions(
    levels: Sequence[jax.Array],
    boxes: jax.Array,
    level: jax.Array,
    size: int | tuple[int, int],
    scales: Sequence[float],
    *,
    pooling: str = "roi_align",
    samples: int = 0,
    aligned: bool = True,
    extents: jax.Array | None = None,
) -> jax.Array:
    """Pools the regions of one image, each from its level of the pyramid.

    Example:
      >>> levels = [jnp.ones((8, 8, 1)), 2 * jnp.ones((4, 4, 1))]  # strides 4 and 8
      >>> boxes, level = jnp.array([[0, 0, 16, 16], [0, 0, 32, 32]]), jnp.array([0, 1])
      >>> pooled = pool_regions(levels, boxes, level, 1, [1 / 4, 1 / 8], pooling="roi_pool")
      >>> pooled.ravel().tolist()
      [1.0, 2.0]

    Args:
      levels: as for `pyramid_roi_align`.
      boxes: as for `pyramid_roi_align`.
      level: as for `pyramid_roi_align`.
      size: as for `pyramid_roi_align`.
      scales: as for `pyramid_roi_align`.
      pooling: one of `POOLINGS`.
      samples: as for `pyramid_roi_align`. "roi_pool" ignores it.
      aligned: as for `pyramid_roi_align`. "roi_pool" ignores it.
      extents: as for `pyramid_roi_align`.

    Returns:
      [R, size, size, C], of the features' dtype.

    Raises:
      ValueError: an unknown pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is unknown; choose one of {', '.join(POOLINGS)}")
    if pooling == "roi_pool":
        return pyramid_roi_pool(levels, boxes, level, size, scales, extents=extents)
    # RoIWarp is RoIAlign in a rounded region.
    if pooling == "quantised":
        boxes = round_to_cells(boxes, jnp.asarray(scales, jnp.float32)[level])
    impl = "matmul" if pooling == "roi_align_matmul" else "gather"
    options = dict(samples=samples, aligned=aligned, impl=impl, extents=extents)
    return pyramid_roi_align(levels, boxes, level, size, scales, **options)
