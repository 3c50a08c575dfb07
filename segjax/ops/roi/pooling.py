"""Regions of a pyramid at a fixed size, by the rule of a name: what the ablations of Mask R-CNN (section 4.2) compare.

roi_align         Samples at exact places, their mean. roi_align_matmul: the same by another program, see `roi_align`.
quantised         The same samples in a region whose edges are rounded to cells: RoIWarp's, as the paper calls it.
roi_pool          The region and its bins are rounded to cells; the maximum of a bin.
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
) -> jax.Array:
    """Regions of one image, each pooled from its level of the pyramid.

    Args:
      levels, boxes, level, size, scales: as for `pyramid_roi_align`.
      pooling: one of `POOLINGS`. samples, aligned: of all but "roi_pool", as there.

    Returns:
      [R, size, size, C] of the features' type.

    Raises:
      ValueError: an unknown pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {pooling!r} is unknown; choose one of {', '.join(POOLINGS)}")
    if pooling == "roi_pool":
        return pyramid_roi_pool(levels, boxes, level, size, scales)
    if pooling == "quantised":
        boxes = round_to_cells(boxes, jnp.asarray(scales, jnp.float32)[level])
    impl = "matmul" if pooling == "roi_align_matmul" else "gather"
    return pyramid_roi_align(
        levels, boxes, level, size, scales, samples=samples, aligned=aligned, impl=impl
    )
