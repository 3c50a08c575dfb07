"""Pooling of regions of interest from the levels of a feature pyramid."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from segjax.models.detection.valid_region import ValidRegion
from segjax.ops.roi.pooling import pool_regions
from segjax.ops.roi.pyramid import fpn_level

POOLED_LEVELS = 4  # P2 to P5. No region is pooled from P6.


@dataclasses.dataclass(frozen=True)
class RoiPooling:
    """RoIAlign on a pyramid (arXiv 1703.06870, section 3; arXiv 1612.03144, equation 1).

    The box head pools 7 x 7 bins, the mask and the keypoint head 14 x 14.

    Attributes:
      pooling: a key of `segjax.ops.roi.pooling.POOLINGS`. The default is RoIAlign.
      canonical_size: side in pixels of a box that belongs to level P4.
      samples: sampling points per bin and axis. 0 takes as many as the bin has cells.
      aligned: shift coordinates by half a pixel, so that a cell's center lies at its pixel.
      level_epsilon_inside: the level is floor(4 + log2(side / canonical_size + 1e-8)), as in
        detectron2. If false it is floor(4 + log2(side / canonical_size) + 1e-6), as in torchvision.
    """

    pooling: str = "roi_align"
    canonical_size: float = 224.0
    samples: int = 2
    aligned: bool = False
    level_epsilon_inside: bool = False

    def pool(
        self,
        levels: Sequence[jax.Array],
        boxes: jax.Array,
        bins: int,
        region: ValidRegion | None = None,
    ) -> jax.Array:
        """Pools every box from the level that its size selects.

        Args:
          levels: P2 and up, [B, h, w, C] each. Only P2 to P5 are used.
          boxes: float32 [B, N, 4], pixels of the canvas.
          bins: side of the pooled region in cells.
          region: its edge counts as the edge of the maps. None: all is valid.

        Returns:
          [B, N, bins, bins, C].
        """
        level = fpn_level(
            boxes,
            canonical_size=self.canonical_size,
            epsilon_inside=self.level_epsilon_inside,
        )
        # P2 to P5 have strides of 4, 8, 16 and 32 pixels.
        scales = [2.0**-n for n in range(2, 2 + POOLED_LEVELS)]
        pooled = list(levels[:POOLED_LEVELS])
        extents = None
        if region is not None:
            extents = jnp.stack([region.cells(x.shape[1:3]) for x in pooled], axis=1)
        pool_image = lambda levels, boxes, level, extents: pool_regions(
            levels,
            boxes,
            level,
            bins,
            scales,
            samples=self.samples,
            aligned=self.aligned,
            pooling=self.pooling,
            extents=extents,
        )
        return jax.vmap(pool_image)(pooled, boxes, level, extents)
