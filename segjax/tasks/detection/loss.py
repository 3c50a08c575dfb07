"""The terms of Mask R-CNN's loss for a batch (arXiv 1703.06870, section 3; arXiv 1506.01497, section 3.1).

Of a cascade's too (arXiv 1712.00726, section 4): all of its stages see the regions that were drawn for the first.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.losses.detection import keypoint_loss, mask_loss, proposal_losses, region_losses
from segjax.models.detection.heads import BoxAnswers
from segjax.models.detection.layers import numbered
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.ops.keypoints import keypoint_targets
from segjax.ops.roi.mask_targets import cropped_mask_targets
from segjax.tasks.detection.targets import (
    RegionTargets,
    anchor_targets,
    refined_targets,
    region_targets,
)

TRUTH = ("boxes", "categories", "valid", "crowd")


class Samples(NamedTuple):
    """How many anchors and regions of a picture a step trains on, and which share of them may show objects."""

    anchors: int = 256
    positive_anchors: float = 0.5
    regions: int = 512
    positive_regions: float = 0.25

    @property
    def objects(self) -> int:
        """Places of the regions that can show an object: the first ones."""
        return int(self.regions * self.positive_regions)


def loss_terms(
    model: MaskRcnn, batch: Mapping[str, jax.Array], key: jax.Array, samples: Samples, train: bool
) -> tuple[dict[str, jax.Array], jax.Array]:
    """(Each term of the loss of a bound model, its sum over the batch divided by its own count over the batch; the
    share of the places for proposals that are filled, of each picture [B]).

    Pictures of weight 0 count for nothing. Terms: rpn_scores and rpn_boxes; classes and boxes, in a cascade classes_0,
    boxes_0 and so on; masks and keypoints, where there are any, of the regions as they were drawn. What the counts are,
    see `Conventions.rpn_samples_fixed` and section 3.1 of the paper; of keypoints it is the number of those that are
    visible, as in both libraries.

    Args:
      model: inside of `apply`. batch: of `DetectionExample`s.
      key: of what is drawn; a picture's draw depends on its place in the batch, not on the size of the batch.
    """
    rules, images, sizes = model.rules, batch["image"], batch["size"]
    real, truth = batch["weight"] > 0, {name: batch[name] for name in TRUTH}
    # By place, so that placeholders behind the pictures change nothing.
    keys = jax.vmap(lambda place: jax.random.split(jax.random.fold_in(key, place)))(
        jnp.arange(len(images))
    )

    levels = model.encode_image(images, sizes, train=train)
    logits, deltas = model.propose(levels)
    anchors = jnp.concatenate(model.anchors(images.shape[1:3], levels))
    draw = functools.partial(
        anchor_targets, samples=samples.anchors, positive_fraction=samples.positive_anchors
    )
    drawn = jax.vmap(draw, in_axes=(0, None, 0))(keys[:, 0], anchors, truth)
    rows = lambda x: jax.vmap(lambda x, index: x[index])(jnp.concatenate(x, axis=1), drawn.index)
    valid = drawn.valid & real[:, None]
    scores, boxes = proposal_losses(
        rows(logits), rows(deltas), drawn.deltas, drawn.positive, valid, rules.rpn_beta
    )
    count = samples.anchors * jnp.sum(real) if rules.rpn_samples_fixed else jnp.sum(valid)
    terms = {"rpn_scores": _share(scores, count), "rpn_boxes": _share(boxes, count)}

    proposals = model.proposals(logits, deltas, levels, images.shape[1:3], sizes, train=train)
    draw = functools.partial(
        region_targets, samples=samples.regions, positive_fraction=samples.positive_regions
    )
    regions = jax.vmap(draw)(keys[:, 1], proposals.boxes, proposals.valid, truth)
    regions = regions._replace(valid=regions.valid & real[:, None])
    terms |= _box_terms(model, model.box_answers(levels, regions.boxes, sizes), regions, truth)
    shown = _first(regions, samples.objects)
    if model.mask_convs or model.keypoints:
        pooled = _flat(model.regions(levels, shown.boxes, 14))
    if model.mask_convs:
        terms["masks"] = _share(*_masks(model.mask_head(pooled), batch, shown))
    if model.keypoints:
        terms["keypoints"] = _share(*_keypoints(model.locate(pooled), batch, shown))
    return terms, jnp.mean(proposals.valid, axis=1)


def _box_terms(
    model: MaskRcnn,
    answers: Sequence[BoxAnswers],
    drawn: RegionTargets,
    truth: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Of each stage's classes and boxes, divided by the regions that count in it. drawn: for the first stage."""
    beta = model.rules.keypoint_box_beta if model.keypoints else model.rules.box_beta
    terms = {}
    for place, (stage, answer) in enumerate(zip(model.stages, answers, strict=True)):
        match = jax.vmap(functools.partial(refined_targets, stage=stage))
        regions = match(answer.boxes, drawn.valid, truth) if place else drawn
        rows = answer.logits, answer.deltas, regions.deltas, regions.labels, regions.valid
        losses, count = region_losses(*map(_flat, rows), beta), jnp.sum(regions.valid)
        names = (numbered(name, len(answers))[place] for name in ("classes", "boxes"))
        terms |= {name: _share(loss, count) for name, loss in zip(names, losses, strict=True)}
    return terms


def _masks(
    logits: jax.Array, batch: Mapping[str, jax.Array], regions: RegionTargets
) -> tuple[jax.Array, jax.Array]:
    """(sum, number of regions) of the masks' loss of the places that can show an object."""
    targets = jax.vmap(functools.partial(cropped_mask_targets, size=logits.shape[1]))(
        batch["masks"], batch["boxes"], regions.boxes, regions.matched
    )
    shown = regions.valid & (regions.labels > 0)
    return mask_loss(logits, _flat(targets), _flat(regions.labels), _flat(shown))


def _keypoints(
    logits: jax.Array, batch: Mapping[str, jax.Array], regions: RegionTargets
) -> tuple[jax.Array, jax.Array]:
    """(sum, number of visible keypoints) of the keypoints' loss of the places that can show an object."""
    own = jax.vmap(lambda keypoints, matched: keypoints[matched])(
        batch["keypoints"], regions.matched
    )
    cells, inside = keypoint_targets(_flat(own), _flat(regions.boxes), logits.shape[1])
    shown = regions.valid & (regions.labels > 0)
    return keypoint_loss(logits, cells, inside & _flat(shown)[:, None])


def _first(regions: RegionTargets, count: int) -> RegionTargets:
    return jax.tree.map(lambda x: x[:, :count], regions)


def _flat(x: jax.Array) -> jax.Array:
    """[B, S, ...] -> [B * S, ...]."""
    return x.reshape(-1, *x.shape[2:])


def _share(total: jax.Array, count: jax.Array) -> jax.Array:
    """The quotient; where there is nothing the total is 0, and so is this."""
    return total / jnp.maximum(count, 1)
