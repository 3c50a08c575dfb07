"""From the box head's answers for regions to the detections of a picture (Mask R-CNN, section 3.1, "Inference")."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.models.detection.heads import STAGES
from segjax.models.detection.rpn import Proposals, long_enough
from segjax.ops.boxes import clip_boxes, decode_boxes
from segjax.ops.nms import best, nms


class Detections(NamedTuple):
    """What was found in B pictures, in D places, the best first.

    boxes: float32 [B, D, 4], pixels of the canvas. scores: float32 [B, D], probabilities. labels: int32 [B, D], 1..K; 0
    in places that are not filled. valid: bool [B, D]. left_out: int32 [B], how many scores above the threshold took no
    part, as there were more than `candidates`.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array
    left_out: jax.Array


def mean_probabilities(logits: Sequence[jax.Array]) -> jax.Array:
    """Of each class, the mean over the stages of a cascade, as detectron2 has it: [..., 1 + K] each and all."""
    return jnp.mean(jnp.stack([jax.nn.softmax(each) for each in logits]), axis=0)


def best_detections(
    probabilities: jax.Array,
    deltas: jax.Array,
    proposals: Proposals,
    sizes: jax.Array,
    *,
    weights: tuple[float, ...] = STAGES[0].weights,
    score_threshold: float,
    nms_threshold: float,
    side: float,
    candidates: int,
    count: int,
) -> Detections:
    """A region may be an object of each class whose score is above the threshold; the best of a class suppress others.

    Args:
      probabilities: float32 [B, N, 1 + K], the background first, see `mean_probabilities`. deltas: [B, N, K or 1, 4].
      proposals: the regions. sizes: int [B, 2], (height, width) of each picture's content.
      weights: of the deltas, see `Stage`.
      score_threshold: scores must be above it. nms_threshold: IoU above which the worse of two of a class is dropped.
      side: detections must have sides as long. candidates: the best so many of a picture take part.
      count: detections of a picture.
    """

    def of_picture(probabilities, deltas, regions, valid, size):
        """The same without the batch: one row of each argument."""
        scores = jnp.where(valid[:, None], probabilities[:, 1:], 0)
        classes = scores.shape[1]
        found, index = jax.lax.top_k(scores.reshape(-1), min(candidates, scores.size))
        region, label = index // classes, index % classes
        delta = deltas[region, label if deltas.shape[1] > 1 else 0]
        boxes = clip_boxes(decode_boxes(delta, regions[region], weights), size)
        usable = (found > score_threshold) & long_enough(boxes, side)
        kept, filled = best(nms(boxes, found, nms_threshold, usable, label), found, count)
        left_out = jnp.maximum(
            jnp.sum(scores > score_threshold, dtype=jnp.int32) - found.shape[0], 0
        )
        boxes = jnp.where(filled[:, None], boxes[kept], 0)
        return Detections(
            boxes,
            jnp.where(filled, found[kept], 0),
            jnp.where(filled, label[kept] + 1, 0),
            filled,
            left_out,
        )

    return jax.vmap(of_picture)(probabilities, deltas, proposals.boxes, proposals.valid, sizes)
