"""The region proposal network (arXiv 1506.01497): anchors, objectness, and selected proposals."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.detection.layers import Conv, number_names
from segjax.models.detection.valid_region import ValidRegion
from segjax.ops.anchors import make_cell_anchors, make_grid_anchors
from segjax.ops.boxes import clip_boxes, decode_boxes
from segjax.ops.nms import nms, select_best

_small = nn.initializers.normal(0.01)


class RpnHead(nn.Module):
    """Region proposal network head, with the same weights for every level of the pyramid.

    It predicts an objectness logit and a box delta for every anchor. Submodules are `conv` (or
    `conv_0`, `conv_1` and so on if there are several), `logits` and `deltas`.

    Attributes:
      anchors: number of anchors per cell.
      convs: number of 3x3 convolutions with ReLU in front of the two predictions.
      dtype: of the computation.
    """

    anchors: int = 3
    convs: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, levels: tuple[jax.Array, ...], region: ValidRegion | None = None
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Predicts objectness logits and box deltas for every anchor of every level.

        Args:
          levels: feature maps [B, h, w, C], all of one width.
          region: what lies outside of it has no influence. None: all is valid.

        Returns:
          logits: float32 [B, h * w * anchors] for each level.
          deltas: float32 [B, h * w * anchors, 4] for each level, dx dy dw dh.

          Anchors are ordered by row, then column, then kind, as in `segjax.ops.anchors`.
        """
        options = dict(kernel_init=_small, dtype=self.dtype)
        names = number_names("conv", self.convs)
        convs = [Conv(levels[0].shape[-1], 3, relu=True, name=name, **options) for name in names]
        logits = Conv(self.anchors, 1, name="logits", **options)
        deltas = Conv(4 * self.anchors, 1, name="deltas", **options)
        # One head for all levels
        all_logits, all_deltas = [], []
        for x in levels:
            for conv in convs:
                x = conv(x, region)
            all_logits.append(logits(x).astype(jnp.float32).reshape(len(x), -1))
            all_deltas.append(deltas(x).astype(jnp.float32).reshape(len(x), -1, 4))
        return tuple(all_logits), tuple(all_deltas)


@dataclasses.dataclass(frozen=True)
class AnchorGenerator:
    """Anchors of a feature pyramid.

    Attributes:
      sizes: side in pixels of the anchors of each level, P2 to P6.
      ratios: heights divided by widths. Every cell has one anchor of each ratio.
      rounded: round the anchors of a cell to whole pixels.
      stride_from_grid: the step between cells is canvas // cells on each axis, and on a valid
        region the pixels of the region by its cells. If false it is 4, 8, 16, 32 and 64 pixels.
    """

    sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounded: bool = True
    stride_from_grid: bool = True

    def generate(
        self,
        canvas: tuple[int, int],
        grids: Sequence[tuple[int, int]],
        region: ValidRegion | None = None,
    ) -> list[np.ndarray | jax.Array]:
        """Generates the anchors of every level.

        Args:
          canvas: (height, width) of the images in pixels.
          grids: (h, w) of the feature map of each level, P2 first.
          region: valid region of B images. None: the canvas.

        Returns:
          float32 [B, h * w * ratios, 4] for each level, x1 y1 x2 y2 in pixels of the canvas. B is 1
          where all images have the same anchors.

        Raises:
          ValueError: there are not as many sizes as levels.
        """
        if len(self.sizes) != len(grids):
            raise ValueError(
                f"anchor_sizes are {tuple(self.sizes)}; expected one for each of the {len(grids)} "
                "levels"
            )
        levels = []
        for level, (size, grid) in enumerate(zip(self.sizes, grids, strict=True), start=2):
            cell = make_cell_anchors(size, self.ratios, self.rounded)
            if self.stride_from_grid and region is not None:
                strides = region.extent // region.cells(grid)
                make = functools.partial(make_grid_anchors, cell, grid)
                levels.append(jax.vmap(make)(strides))
                continue
            strides = [
                side // cells if self.stride_from_grid else 2**level
                for side, cells in zip(canvas, grid, strict=True)
            ]
            levels.append(make_grid_anchors(cell, grid, strides)[None])
        return levels

    def mark_valid(
        self, grids: Sequence[tuple[int, int]], region: ValidRegion | None
    ) -> list[np.ndarray | jax.Array]:
        """Marks the anchors whose cells lie in the valid region.

        Args:
          grids: as for `generate`.
          region: as for `generate`.

        Returns:
          bool [B, h * w * ratios] for each level. B is 1 without a region.
        """
        count = len(self.ratios)
        if region is None:
            return [np.ones((1, grid[0] * grid[1] * count), bool) for grid in grids]
        rows = [region.mask(grid) for grid in grids]
        return [row.reshape(len(row), -1).repeat(count, axis=1) for row in rows]


class RegionProposals(NamedTuple):
    """Region proposals of B images in N slots, the best first.

    Attributes:
      boxes: float32 [B, N, 4], pixels of the canvas, clipped to the content.
      scores: float32 [B, N], objectness logits or probabilities.
      valid: bool [B, N], False in slots that are not filled.
    """

    boxes: jax.Array
    scores: jax.Array
    valid: jax.Array


@dataclasses.dataclass(frozen=True)
class ProposalSelection:
    """Selection of region proposals by score and non-maximum suppression.

    Attributes:
      before: (training, inference) number of the best anchors per level that enter suppression.
      after: (training, inference) number of proposals per image that leave it.
      nms_threshold: a proposal is suppressed by a better one of its level above this IoU.
      min_side: proposals with a shorter side, in pixels, are dropped. A side of 0 always is.
      sigmoid_scores: rank the proposals of an image by probability, which saturates, instead of
        by logit.
    """

    before: tuple[int, int] = (2000, 1000)
    after: tuple[int, int] = (2000, 1000)
    nms_threshold: float = 0.7
    min_side: float = 0.0
    sigmoid_scores: bool = True

    def select(
        self,
        logits: Sequence[jax.Array],
        deltas: Sequence[jax.Array],
        anchors: Sequence[np.ndarray | jax.Array],
        sizes: jax.Array,
        *,
        valid: Sequence[np.ndarray | jax.Array] | None = None,
        train: bool = False,
    ) -> RegionProposals:
        """Selects the proposals of each image. No gradient flows through them.

        The best anchors of each level are decoded, clipped and suppressed within their level. The
        best of the remaining ones become the proposals.

        Args:
          logits: float32 [B, n] for each level, objectness.
          deltas: float32 [B, n, 4] for each level.
          anchors: float32 [B or 1, n, 4] for each level, pixels of the canvas.
          sizes: int [B, 2], (height, width) of each image's content.
          valid: bool [B or 1, n] for each level, anchors to choose from. None: all.
          train: select as many as in training.

        Returns:
          The proposals, in `after` slots per image.
        """
        phase = 0 if train else 1
        if valid is not None:
            pairs = zip(valid, logits, strict=True)
            logits = [jnp.where(inside, level, -jnp.inf) for inside, level in pairs]
        # The best anchors of each level
        top = [
            _top_of_level(*level, self.before[phase])
            for level in zip(logits, deltas, anchors, strict=True)
        ]
        # [B, levels, before, ...]
        boxes, scores = (jnp.stack(parts, axis=1) for parts in zip(*top, strict=True))
        boxes = jax.lax.stop_gradient(clip_boxes(boxes, sizes[:, None, None]))
        scores = jax.lax.stop_gradient(scores)
        # Infinite logits come from weights that diverged, and would beat every other proposal.
        usable = jnp.isfinite(scores) & has_min_side(boxes, self.min_side)
        if self.sigmoid_scores:
            scores = jax.nn.sigmoid(scores)

        # Suppression within each level of each image
        suppress = lambda boxes, scores, usable: nms(boxes, scores, self.nms_threshold, usable)
        keep = jax.vmap(jax.vmap(suppress))(boxes, scores, usable)

        # The best of all levels
        flat = lambda x: x.reshape(len(x), -1, *x.shape[3:])
        index, filled = jax.vmap(lambda keep, scores: select_best(keep, scores, self.after[phase]))(
            flat(keep), flat(scores)
        )
        boxes = jnp.take_along_axis(flat(boxes), index[..., None], axis=1)
        scores = jnp.take_along_axis(flat(scores), index, axis=1)
        return RegionProposals(boxes, scores, filled)


def has_min_side(boxes: jax.Array, side: float) -> jax.Array:
    """Tests if both sides of a box have at least a length, and more than 0.

    Args:
      boxes: float [..., 4], x1 y1 x2 y2.
      side: minimum length, in the unit of the boxes.

    Returns:
      bool [...].
    """
    extent = boxes[..., 2:] - boxes[..., :2]
    return jnp.all((extent >= side) & (extent > 0), axis=-1)


def _top_of_level(
    logits: jax.Array, deltas: jax.Array, anchors: np.ndarray | jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Decodes the best anchors of one level.

    Returns:
      boxes: float32 [B, count, 4].
      logits: float32 [B, count], minus infinity in slots that the level does not fill.
    """
    top, index = jax.lax.top_k(logits, min(count, logits.shape[1]))
    # Anchors that all images share have a first axis of 1, to which the indices broadcast.
    rows = (
        jnp.take_along_axis(jnp.asarray(x), index[..., None], axis=1) for x in (deltas, anchors)
    )
    boxes = decode_boxes(*rows)
    unfilled = count - top.shape[1]
    top = jnp.pad(top, [(0, 0), (0, unfilled)], constant_values=-jnp.inf)
    return jnp.pad(boxes, [(0, 0), (0, unfilled), (0, 0)]), top
