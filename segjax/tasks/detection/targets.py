"""Training targets of anchors and regions (Mask R-CNN, section 3.1), with static shapes.

Every function handles one image: apply `jax.vmap` for a batch. Shape letters: G ground-truth slots
(some are padding), A anchors, R proposals, S samples.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.models.detection.heads import STAGES, CascadeStage
from segjax.models.detection.rpn import has_min_side
from segjax.ops.boxes import box_iou, encode_boxes
from segjax.ops.matching import IGNORED, POSITIVE, is_in_crowd, match_boxes, sample_balanced

RPN_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class AnchorTargets(NamedTuple):
    """S sampled anchors and their targets.

    Attributes:
      index: int32 [S], index of each sample among the anchors.
      valid: bool [S], False in slots that are not filled.
      positive: bool [S], True for anchors that match an object.
      deltas: float32 [S, 4], encoded box of the matched object, meaningful where `positive`.
    """

    index: jax.Array
    valid: jax.Array
    positive: jax.Array
    deltas: jax.Array


class RegionTargets(NamedTuple):
    """S sampled regions and their targets. `sample_regions` puts positive regions first.

    Attributes:
      boxes: float32 [S, 4], x1 y1 x2 y2 in canvas pixels.
      valid: bool [S], False in slots that are not filled.
      labels: int32 [S], 1..K, 0 for the background.
      deltas: float32 [S, 4], encoded box of the matched object.
      matched: int32 [S], slot of the matched object in the ground truth.
    """

    boxes: jax.Array
    valid: jax.Array
    labels: jax.Array
    deltas: jax.Array
    matched: jax.Array


def sample_anchors(
    key: jax.Array,
    anchors: jax.Array,
    ground_truth: Mapping[str, jax.Array],
    inside: jax.Array | None = None,
    *,
    samples: int = 256,
    positive_fraction: float = 0.5,
    low: float = 0.3,
    high: float = 0.7,
) -> AnchorTargets:
    """Samples the anchors of one image on which the region proposal network trains.

    Args:
      key: PRNG key of this image.
      anchors: float32 [A, 4], x1 y1 x2 y2 in canvas pixels.
      ground_truth: "boxes" float32 [G, 4] in canvas pixels, "valid" and "crowd" bool [G].
      inside: bool [A], False for anchors in padding, which are never sampled. None: all are inside.
      samples: number of samples S.
      positive_fraction: largest share of positive samples, see `sample_balanced`.
      low: anchors with a smaller IoU are negative, see `match_boxes`.
      high: anchors with at least this IoU are positive.

    Returns:
      The sampled anchors and their targets.

    Example:
      >>> boxes = jnp.array([[0.0, 0.0, 10.0, 10.0]])
      >>> flags = dict(valid=jnp.array([True]), crowd=jnp.array([False]))
      >>> ground_truth = dict(boxes=boxes, **flags)
      >>> targets = sample_anchors(jax.random.key(0), boxes, ground_truth, samples=2)
      >>> targets.positive.tolist()
      [True, False]
    """
    if inside is not None:
        anchors = jnp.where(inside[:, None], anchors, 0)  # an empty box overlaps nothing
    # Every object gets its best anchor, however small their IoU.
    matched, label = _match(anchors, ground_truth, low, high, force=True)
    if inside is not None:
        label = jnp.where(inside, label, IGNORED)
    index, valid, positive = sample_balanced(key, label, samples, positive_fraction)
    deltas = encode_boxes(ground_truth["boxes"][matched[index]], anchors[index], RPN_WEIGHTS)
    return AnchorTargets(index, valid, positive, deltas)


def sample_regions(
    key: jax.Array,
    proposals: jax.Array,
    filled: jax.Array,
    ground_truth: Mapping[str, jax.Array],
    *,
    samples: int = 512,
    positive_fraction: float = 0.25,
) -> RegionTargets:
    """Samples the regions of one image on which the heads train.

    Candidates are the proposals and the ground-truth boxes. The latter provide positive regions
    from the first step on, when the proposals are still poor.

    Args:
      key: PRNG key of this image.
      proposals: float32 [R, 4], x1 y1 x2 y2 in canvas pixels. No gradient flows into them.
      filled: bool [R], False for padding among the proposals.
      ground_truth: as in `sample_anchors`, with "categories" int [G], 0..K-1.
      samples: number of samples S.
      positive_fraction: largest share of positive samples, see `sample_balanced`.

    Returns:
      The sampled regions and their targets for the first stage, positive regions first.
    """
    # Candidates: ground truth first, then proposals
    boxes = jax.lax.stop_gradient(jnp.concatenate([ground_truth["boxes"], proposals]))
    usable = jnp.concatenate([ground_truth["valid"] & ~ground_truth["crowd"], filled])
    # One threshold separates positive and negative regions, so none is ignored between two.
    matched, label = _match(boxes, ground_truth, STAGES[0].iou, STAGES[0].iou)
    label = jnp.where(usable, label, IGNORED)
    index, valid, positive = sample_balanced(key, label, samples, positive_fraction)
    return _region_targets(boxes[index], valid, positive, matched[index], ground_truth, STAGES[0])


def match_refined_regions(
    boxes: jax.Array,
    filled: jax.Array,
    ground_truth: Mapping[str, jax.Array],
    *,
    stage: CascadeStage,
) -> RegionTargets:
    """Matches the boxes that the previous stage of a cascade refined, without sampling.

    All regions keep their slots. The IoU threshold of the stage decides anew which ones are
    positive. Negative regions in a crowd, and boxes that were clipped to nothing, are invalid.

    Args:
      boxes: float32 [S, 4], refined boxes, x1 y1 x2 y2 in canvas pixels.
      filled: bool [S], slots that the first stage filled.
      ground_truth: as in `sample_regions`.
      stage: IoU threshold and delta weights of this stage.

    Returns:
      The same regions with their targets for this stage.
    """
    matched, label = _match(boxes, ground_truth, stage.iou, stage.iou)
    valid = filled & (label != IGNORED) & has_min_side(boxes, 0)
    return _region_targets(boxes, valid, label == POSITIVE, matched, ground_truth, stage)


def _match(
    boxes: jax.Array,
    ground_truth: Mapping[str, jax.Array],
    low: float,
    high: float,
    force: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Returns (index, label) of `match_boxes`, where negatives inside a crowd are ignored."""
    objects = ground_truth["valid"] & ~ground_truth["crowd"]
    crowds = ground_truth["valid"] & ground_truth["crowd"]
    # A crowd covers unlabeled objects: a region inside it is no reliable negative.
    ignored = is_in_crowd(boxes, ground_truth["boxes"], crowds)
    return match_boxes(box_iou(ground_truth["boxes"], boxes), objects, low, high, force, ignored)


def _region_targets(
    boxes: jax.Array,
    valid: jax.Array,
    positive: jax.Array,
    matched: jax.Array,
    ground_truth: Mapping[str, jax.Array],
    stage: CascadeStage,
) -> RegionTargets:
    """Builds the labels and encoded boxes of matched regions."""
    # Label 0 is the background.
    labels = jnp.where(positive, ground_truth["categories"][matched] + 1, 0)
    deltas = encode_boxes(ground_truth["boxes"][matched], boxes, stage.weights)
    return RegionTargets(boxes, valid, labels.astype(jnp.int32), deltas, matched)
