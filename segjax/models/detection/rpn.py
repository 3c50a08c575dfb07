"""The region proposal network (arXiv 1506.01497): which anchors of which cells are objects, and their boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.detection.conventions import Conventions
from segjax.models.detection.layers import Conv, numbered
from segjax.ops.anchors import cell_anchors, grid_anchors
from segjax.ops.boxes import clip_boxes, decode_boxes
from segjax.ops.nms import best, nms

_small = nn.initializers.normal(0.01)


class RpnHead(nn.Module):
    """Levels [B, h, w, C] -> logits and deltas of their anchors; the same weights for every level.

    Modules are conv, or conv_0, conv_1 where there are several, 3x3 with a ReLU; logits and deltas.

    Attributes:
      anchors: at each cell. convs: before the two predictions.
    """

    anchors: int = 3
    convs: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, levels: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Returns float32 (logits [B, h * w * anchors], deltas [B, h * w * anchors, 4]) by level.

        Anchors count by row, column, then kind, as `segjax.ops.anchors` does; deltas are dx dy dw dh.
        """
        options = dict(kernel_init=_small, dtype=self.dtype)
        names = numbered("conv", self.convs)
        convs = [Conv(levels[0].shape[-1], 3, relu=True, name=name, **options) for name in names]
        logits = Conv(self.anchors, 1, name="logits", **options)
        deltas = Conv(4 * self.anchors, 1, name="deltas", **options)
        all_logits, all_deltas = [], []
        for x in levels:
            for conv in convs:
                x = conv(x)
            all_logits.append(logits(x).astype(jnp.float32).reshape(len(x), -1))
            all_deltas.append(deltas(x).astype(jnp.float32).reshape(len(x), -1, 4))
        return tuple(all_logits), tuple(all_deltas)


class Proposals(NamedTuple):
    """Boxes of B pictures in N places, the best first.

    boxes: float32 [B, N, 4], pixels of the canvas, inside of the content. scores: float32 [B, N], logits or
    probabilities. valid: bool [B, N], False in places that are not filled.
    """

    boxes: jax.Array
    scores: jax.Array
    valid: jax.Array


def pyramid_anchors(
    rules: Conventions,
    sizes: Sequence[float],
    ratios: Sequence[float],
    canvas: tuple[int, int],
    grids: Sequence[tuple[int, int]],
) -> list[np.ndarray]:
    """Anchors of a pyramid's levels, P2 first: float32 [h * w * ratios, 4] each, pixels of the canvas.

    sizes: side by level. ratios: height over width. grids: (h, w) by level.

    Raises ValueError for another number of sizes than levels.
    """
    if len(sizes) != len(grids):
        raise ValueError(
            f"anchor_sizes are {tuple(sizes)}; expected one for each of the {len(grids)} levels"
        )
    levels = []
    for level, (size, grid) in enumerate(zip(sizes, grids, strict=True), start=2):
        strides = [
            side // cells if rules.stride_from_grid else 2**level
            for side, cells in zip(canvas, grid, strict=True)
        ]
        levels.append(grid_anchors(cell_anchors(size, ratios, rules.round_anchors), grid, strides))
    return levels


def best_proposals(
    rules: Conventions,
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    anchors: Sequence[np.ndarray],
    sizes: jax.Array,
    *,
    before: int,
    after: int,
) -> Proposals:
    """The best anchors of each level, moved, cut to the picture, suppressed level by level; then the best of them.

    No gradient goes through proposals.

    Args:
      logits: float32 [B, n] by level. deltas: [B, n, 4] by level. anchors: [n, 4] by level.
      sizes: int [B, 2], (height, width) of each picture's content.
      before: of a level that take part in suppression. after: of a picture that are returned.
    """
    chosen = [_best_of_level(*level, before) for level in zip(logits, deltas, anchors, strict=True)]
    boxes, scores = (
        jnp.stack(parts, axis=1) for parts in zip(*chosen, strict=True)
    )  # [B, levels, before, ...]
    boxes = jax.lax.stop_gradient(clip_boxes(boxes, sizes[:, None, None]))
    scores = jax.lax.stop_gradient(scores)
    valid = (scores > -jnp.inf) & long_enough(boxes, rules.proposal_side)
    if rules.sigmoid_scores:
        scores = jax.nn.sigmoid(scores)
    suppress = lambda boxes, scores, valid: nms(boxes, scores, rules.proposal_nms, valid)
    keep = jax.vmap(jax.vmap(suppress))(boxes, scores, valid)
    flat = lambda x: x.reshape(len(x), -1, *x.shape[3:])
    index, found = jax.vmap(lambda keep, scores: best(keep, scores, after))(
        flat(keep), flat(scores)
    )
    boxes = jnp.take_along_axis(flat(boxes), index[..., None], axis=1)
    return Proposals(boxes, jnp.take_along_axis(flat(scores), index, axis=1), found)


def long_enough(boxes: jax.Array, side: float) -> jax.Array:
    """Whether both sides of boxes [..., 4] have that length, and any at all."""
    extent = boxes[..., 2:] - boxes[..., :2]
    return jnp.all((extent >= side) & (extent > 0), axis=-1)


def _best_of_level(
    logits: jax.Array, deltas: jax.Array, anchors: np.ndarray, count: int
) -> tuple[jax.Array, jax.Array]:
    """(boxes [B, count, 4], logits [B, count]); places that the level does not fill have a logit of minus infinity."""
    found, index = jax.lax.top_k(logits, min(count, logits.shape[1]))
    boxes = decode_boxes(
        jnp.take_along_axis(deltas, index[..., None], axis=1), jnp.asarray(anchors)[index]
    )
    room = count - found.shape[1]
    found = jnp.pad(found, [(0, 0), (0, room)], constant_values=-jnp.inf)
    return jnp.pad(boxes, [(0, 0), (0, room), (0, 0)]), found
