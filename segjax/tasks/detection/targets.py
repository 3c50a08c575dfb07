"""What the anchors and the regions of a picture are trained to say (Mask R-CNN, section 3.1), with static shapes.

All of it is of one picture, to be vmapped. G places of ground truth, some of them padding; A anchors; S samples.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.models.detection.heads import STAGES, Stage
from segjax.models.detection.rpn import long_enough
from segjax.ops.boxes import box_iou, encode_boxes
from segjax.ops.matching import IGNORED, POSITIVE, in_crowd, match_boxes, sample_balanced

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class AnchorTargets(NamedTuple):
    """S anchors: which (index, int32 [S]), valid and positive bool [S], and deltas float32 [S, 4] of positive ones."""

    index: jax.Array
    valid: jax.Array
    positive: jax.Array
    deltas: jax.Array


class RegionTargets(NamedTuple):
    """S regions; those that show an object come first where they were drawn for the first stage.

    boxes: float32 [S, 4]. valid: bool [S]. labels: int32 [S], 1..K, 0 is the background. deltas: float32 [S, 4] to the
    object's box. matched: int32 [S], the object's place in the ground truth.
    """

    boxes: jax.Array
    valid: jax.Array
    labels: jax.Array
    deltas: jax.Array
    matched: jax.Array


def anchor_targets(
    key: jax.Array,
    anchors: jax.Array,
    truth: Mapping[str, jax.Array],
    *,
    samples: int = 256,
    positive_fraction: float = 0.5,
    low: float = 0.3,
    high: float = 0.7,
) -> AnchorTargets:
    """Draws the anchors that a step trains on.

    Args:
      key: of this picture.
      anchors: [A, 4].
      truth: boxes [G, 4], valid and crowd bool [G], of a `DetectionExample`.
      samples, positive_fraction, low, high: see `sample_balanced` and `match_boxes`.
    """
    matched, label = _matched(anchors, truth, low, high, force=True)
    index, valid, positive = sample_balanced(key, label, samples, positive_fraction)
    deltas = encode_boxes(truth["boxes"][matched[index]], anchors[index], RPN_WEIGHTS)
    return AnchorTargets(index, valid, positive, deltas)


def region_targets(
    key: jax.Array,
    proposals: jax.Array,
    found: jax.Array,
    truth: Mapping[str, jax.Array],
    *,
    samples: int = 512,
    positive_fraction: float = 0.25,
) -> RegionTargets:
    """Draws the regions that a step trains on, for the first stage, out of the proposals and the objects' own boxes.

    The latter are there from the first step on, when proposals are still poor.

    Args:
      key: of this picture.
      proposals: [R, 4]; found: bool [R], others are padding. No gradient goes into them.
      truth: as for `anchor_targets`, with categories int [G], 0..K-1.
    """
    boxes = jax.lax.stop_gradient(jnp.concatenate([truth["boxes"], proposals]))
    there = jnp.concatenate([truth["valid"] & ~truth["crowd"], found])
    matched, label = _matched(boxes, truth, STAGES[0].iou, STAGES[0].iou)
    label = jnp.where(there, label, IGNORED)
    index, valid, positive = sample_balanced(key, label, samples, positive_fraction)
    return _region_targets(boxes[index], valid, positive, matched[index], truth, STAGES[0])


def refined_targets(
    boxes: jax.Array, filled: jax.Array, truth: Mapping[str, jax.Array], *, stage: Stage
) -> RegionTargets:
    """The same regions in a later stage of a cascade, with the boxes that the stage before has made of them.

    None is drawn: all keep their places, and which of them show an object is decided anew, by the stage's own IoU. Of
    those that show none, the ones in a crowd do not count, nor does any of which nothing is left in the picture.

    Args:
      boxes: [S, 4]. filled: bool [S], the places that the first stage has filled. truth: as for `region_targets`.
    """
    matched, label = _matched(boxes, truth, stage.iou, stage.iou)
    valid = filled & (label != IGNORED) & long_enough(boxes, 0)
    return _region_targets(boxes, valid, label == POSITIVE, matched, truth, stage)


def _matched(
    boxes: jax.Array, truth: Mapping[str, jax.Array], low: float, high: float, force: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(index, label) of `match_boxes`; what is no object and lies in a crowd is ignored."""
    alone, crowds = truth["valid"] & ~truth["crowd"], truth["valid"] & truth["crowd"]
    ignored = in_crowd(boxes, truth["boxes"], crowds)
    return match_boxes(box_iou(truth["boxes"], boxes), alone, low, high, force, ignored)


def _region_targets(
    boxes: jax.Array,
    valid: jax.Array,
    positive: jax.Array,
    matched: jax.Array,
    truth: Mapping[str, jax.Array],
    stage: Stage,
) -> RegionTargets:
    labels = jnp.where(positive, truth["categories"][matched] + 1, 0)
    deltas = encode_boxes(truth["boxes"][matched], boxes, stage.weights)
    return RegionTargets(boxes, valid, labels.astype(jnp.int32), deltas, matched)
