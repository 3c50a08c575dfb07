"""The losses of Mask R-CNN for one batch.

The region proposal network follows Faster R-CNN (arXiv 1506.01497, section 3.1), the heads follow
Mask R-CNN (arXiv 1703.06870, section 3). In a cascade (arXiv 1712.00726, section 4) all stages
train on the regions that were sampled for the first stage.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.losses.detection import (
    UNKNOWN_STUFF,
    keypoint_loss,
    mask_loss,
    proposal_losses,
    region_losses,
    stuff_loss,
)
from segjax.models.detection.heads import BoxOutputs
from segjax.models.detection.layers import number_names
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.ops.keypoints import encode_keypoints
from segjax.ops.roi.mask_targets import compute_cropped_mask_targets
from segjax.tasks.detection.targets import (
    AnchorTargets,
    RegionTargets,
    match_refined_regions,
    sample_anchors,
    sample_regions,
)

GROUND_TRUTH_FIELDS = ("boxes", "categories", "valid", "crowd")


class SampleCounts(NamedTuple):
    """Numbers of anchors and regions per image that a step trains on (`config.samples`).

    Attributes:
      anchors: sampled anchors per image.
      positive_anchors: largest share of positive anchors, 0..1.
      regions: sampled regions per image.
      positive_regions: largest share of positive regions, 0..1.
    """

    anchors: int = 256
    positive_anchors: float = 0.5
    regions: int = 512
    positive_regions: float = 0.25

    @property
    def objects(self) -> int:
        """Number of leading region slots that can hold a positive region."""
        return int(self.regions * self.positive_regions)


def compute_loss_terms(
    model: MaskRcnn,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    samples: SampleCounts,
    train: bool,
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Computes each loss term of a batch, normalized by its own count over the batch.

    Call it as a method of a bound module:
    `model.apply(variables, batch, key, samples, train, method=compute_loss_terms)`.
    Images of weight 0 contribute nothing.

    The counts are the sampled anchors and regions. `Conventions.rpn_samples_fixed` states whether
    unfilled anchor slots count too. The keypoint term is divided by the number of visible
    keypoints, as in torchvision and detectron2.

    Args:
      model: bound Mask R-CNN.
      batch: stacked `DetectionExample`s of B images.
      key: PRNG key. The samples of an image depend on its index in the batch, not on B.
      samples: numbers of anchors and regions per image.
      train: True in training (drop path, number of proposals).

    Returns:
      terms: name -> float32 scalar. "rpn_scores", "rpn_boxes", "classes" and "boxes" (in a cascade
        "classes_0", "boxes_0" and so on), and "masks", "keypoints" and "stuff"
        if the model has these heads.
      filled: float32 [B], share of the proposal slots that are filled.
    """
    rules, images, sizes = model.loss_rules, batch["image"], batch["size"]
    real = batch["weight"] > 0
    ground_truth = {name: batch[name] for name in GROUND_TRUTH_FIELDS}
    # Keys follow the index of an image, so placeholder images at the end change nothing.
    keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index)))(
        jnp.arange(len(images))
    )

    # Image embedding
    levels = model.encode_image(images, sizes, train=train)

    # Region proposal network: losses of sampled anchors
    logits, deltas = model.propose(levels, sizes)
    anchors, inside = (
        _join_levels(parts, len(images)) for parts in model.make_anchors(levels, sizes)
    )
    sample = functools.partial(
        sample_anchors, samples=samples.anchors, positive_fraction=samples.positive_anchors
    )
    targets = jax.vmap(sample)(keys[:, 0], anchors, ground_truth, inside)
    targets = targets._replace(valid=targets.valid & real[:, None])
    count = samples.anchors * jnp.sum(real) if rules.rpn_samples_fixed else jnp.sum(targets.valid)
    terms = _compute_proposal_terms(logits, deltas, targets, count, rules.rpn_beta)

    # Region proposals
    proposals = model.select_proposals(logits, deltas, levels, sizes, train=train)

    # Sample regions
    sample = functools.partial(
        sample_regions, samples=samples.regions, positive_fraction=samples.positive_regions
    )
    regions = jax.vmap(sample)(keys[:, 1], proposals.boxes, proposals.valid, ground_truth)
    regions = regions._replace(valid=regions.valid & real[:, None])

    # Box heads
    outputs = model.run_box_heads(levels, regions.boxes, sizes)
    terms |= _compute_box_terms(model, outputs, regions, ground_truth)

    # Mask and keypoint heads see only the slots that can hold an object.
    shown = jax.tree.map(lambda x: x[:, : samples.objects], regions)
    if model.mask_head or model.keypoint_head:
        pooled = _flatten(model.pool_regions(levels, shown.boxes, 14, sizes))
    if model.mask_head:
        terms["masks"] = _divide(*_compute_mask_loss(model.mask_head(pooled), batch, shown))
    if model.keypoint_head:
        terms["keypoints"] = _divide(*_compute_keypoint_loss(model.locate(pooled), batch, shown))
    # Semantic branch: pixels, on the whole canvas
    if model.semantic_head:
        labels = jnp.where(real[:, None, None], batch["stuff"], UNKNOWN_STUFF)
        loss = _divide(*stuff_loss(model.segment_stuff(levels, sizes), labels))
        terms["stuff"] = rules.stuff_weight * loss
    return terms, jnp.mean(proposals.valid, axis=1)


def _compute_proposal_terms(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    targets: AnchorTargets,
    count: jax.Array,
    beta: float,
) -> dict[str, jax.Array]:
    """Computes the objectness and box terms of the region proposal network.

    Args:
      logits: objectness logits by level, float32 [B, anchors of the level].
      deltas: encoded boxes by level, float32 [B, anchors of the level, 4].
      targets: sampled anchors [B, S].
      count: divisor of both terms.
      beta: see `proposal_losses`.

    Returns:
      "rpn_scores" and "rpn_boxes", float32 scalars.
    """
    rows = lambda x: jax.vmap(lambda x, index: x[index])(jnp.concatenate(x, axis=1), targets.index)
    scores, boxes = proposal_losses(
        rows(logits), rows(deltas), targets.deltas, targets.positive, targets.valid, beta
    )
    return {"rpn_scores": _divide(scores, count), "rpn_boxes": _divide(boxes, count)}


def _compute_box_terms(
    model: MaskRcnn,
    outputs: Sequence[BoxOutputs],
    sampled: RegionTargets,
    ground_truth: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Computes the class and box terms of each stage, per region.

    Args:
      model: bound Mask R-CNN.
      outputs: outputs of the box heads, one per stage.
      sampled: targets [B, S] of the first stage.
      ground_truth: fields of the batch, [B, G].

    Returns:
      Term name -> float32 scalar.
    """
    rules = model.loss_rules
    beta = rules.keypoint_box_beta if model.keypoint_head else rules.box_beta
    terms = {}
    for index, (stage, output) in enumerate(zip(model.stages, outputs, strict=True)):
        # Later stages match the refined boxes anew, with a higher IoU threshold.
        match = jax.vmap(functools.partial(match_refined_regions, stage=stage))
        regions = match(output.boxes, sampled.valid, ground_truth) if index else sampled
        rows = output.logits, output.deltas, regions.deltas, regions.labels, regions.valid
        losses, count = region_losses(*map(_flatten, rows), beta), jnp.sum(regions.valid)
        names = (number_names(name, len(outputs))[index] for name in ("classes", "boxes"))
        terms |= {name: _divide(loss, count) for name, loss in zip(names, losses, strict=True)}
    return terms


def _compute_mask_loss(
    logits: jax.Array, batch: Mapping[str, jax.Array], regions: RegionTargets
) -> tuple[jax.Array, jax.Array]:
    """Computes (loss sum, number of positive regions with a known mask) of the mask head."""
    targets = jax.vmap(functools.partial(compute_cropped_mask_targets, size=logits.shape[1]))(
        batch["masks"], batch["boxes"], regions.boxes, regions.matched
    )
    positive = regions.valid & (regions.labels > 0)
    # Objects that were annotated by a box alone say nothing about masks.
    if "has_mask" in batch:
        positive &= jax.vmap(lambda known, index: known[index])(batch["has_mask"], regions.matched)
    return mask_loss(logits, _flatten(targets), _flatten(regions.labels), _flatten(positive))


def _compute_keypoint_loss(
    logits: jax.Array, batch: Mapping[str, jax.Array], regions: RegionTargets
) -> tuple[jax.Array, jax.Array]:
    """Computes (loss sum, number of visible keypoints) of the keypoint head."""
    matched = jax.vmap(lambda keypoints, index: keypoints[index])(
        batch["keypoints"], regions.matched
    )
    cells, inside = encode_keypoints(_flatten(matched), _flatten(regions.boxes), logits.shape[1])
    positive = regions.valid & (regions.labels > 0)
    return keypoint_loss(logits, cells, inside & _flatten(positive)[:, None])


def _join_levels(parts: Sequence[jax.Array], images: int) -> jax.Array:
    """Concatenates arrays of anchors, [B or 1, n, ...] for each level, to [B, all anchors, ...]."""
    return jnp.concatenate([jnp.broadcast_to(x, (images, *x.shape[1:])) for x in parts], axis=1)


def _flatten(x: jax.Array) -> jax.Array:
    """Reshapes [B, S, ...] to [B * S, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _divide(total: jax.Array, count: jax.Array) -> jax.Array:
    """Returns total / count, or 0 if both are 0."""
    return total / jnp.maximum(count, 1)
