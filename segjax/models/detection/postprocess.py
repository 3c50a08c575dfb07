"""From the box head's outputs to the detections of an image (arXiv 1703.06870, section 3.1)."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.models.detection.heads import STAGES
from segjax.models.detection.rpn import RegionProposals, has_min_side
from segjax.ops.boxes import clip_boxes, decode_boxes
from segjax.ops.nms import nms, select_best


class Detections(NamedTuple):
    """Detections of B images in D slots, the best first.

    Attributes:
      boxes: float32 [B, D, 4], x1 y1 x2 y2 in pixels of the canvas.
      scores: float32 [B, D], class probabilities.
      labels: int32 [B, D], 1..K. 0 in slots that are not filled.
      valid: bool [B, D], False in slots that are not filled.
      left_out: int32 [B], number of scores above the threshold that were not considered because
        there were more than `DetectionSelection.candidates`.
    """

    boxes: jax.Array
    scores: jax.Array
    labels: jax.Array
    valid: jax.Array
    left_out: jax.Array


@dataclasses.dataclass(frozen=True)
class OutputRules:
    """Conversion of a detector's outputs into pixels of the image.

    Attributes:
      paste: how a mask is pasted into its box, see `segjax.ops.roi.paste_masks`. "integer" resizes
        it to a box of whole pixels, "grid" samples it at the centers of the pixels.
      keypoint_probability: the score of a keypoint is its share of the heatmap. If false it is the
        logit.
    """

    paste: str = "integer"
    keypoint_probability: bool = False


@dataclasses.dataclass(frozen=True)
class DetectionSelection:
    """Selection of detections by score and non-maximum suppression per class.

    Attributes:
      score_threshold: scores of detections are above it.
      nms_threshold: a detection is suppressed by a better one of its class above this IoU.
      count: number of detections per image, D.
      candidates: number of the best scores of an image that enter suppression.
      min_side: detections with a shorter side, in pixels of the canvas, are dropped.
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    count: int = 100
    candidates: int = 1000
    min_side: float = 0.0

    def select(
        self,
        probabilities: jax.Array,
        deltas: jax.Array,
        proposals: RegionProposals,
        sizes: jax.Array,
        *,
        weights: tuple[float, ...] = STAGES[0].weights,
    ) -> Detections:
        """Selects the detections of each image.

        A region can become a detection of every class whose score is above the threshold.

        Args:
          probabilities: float32 [B, N, 1 + K], the background first, see `average_stages`.
          deltas: float32 [B, N, K or 1, 4], box deltas per class, or one for all classes.
          proposals: the regions, N per image.
          sizes: int [B, 2], (height, width) of each image's content.
          weights: of the deltas, see `CascadeStage`.

        Returns:
          The detections, in `count` slots per image.
        """

        def select_in_image(probabilities, deltas, regions, valid, size):
            """Selects the detections of one image. Arguments have no batch axis."""
            scores = jnp.where(valid[:, None], probabilities[:, 1:], 0)
            classes = scores.shape[1]
            # Candidates: the best pairs of a region and a class
            top, index = jax.lax.top_k(scores.reshape(-1), min(self.candidates, scores.size))
            region, label = index // classes, index % classes
            delta = deltas[region, label if deltas.shape[1] > 1 else 0]
            boxes = clip_boxes(decode_boxes(delta, regions[region], weights), size)
            usable = (top > self.score_threshold) & has_min_side(boxes, self.min_side)
            # Suppression within each class
            keep = nms(boxes, top, self.nms_threshold, usable, label)
            kept, filled = select_best(keep, top, self.count)
            above = jnp.sum(scores > self.score_threshold, dtype=jnp.int32)
            boxes = jnp.where(filled[:, None], boxes[kept], 0)
            return Detections(
                boxes,
                jnp.where(filled, top[kept], 0),
                jnp.where(filled, label[kept] + 1, 0),
                filled,
                jnp.maximum(above - top.shape[0], 0),
            )

        regions = probabilities, deltas, proposals.boxes, proposals.valid
        if not probabilities.shape[1]:  # one that is not valid, because there is no best of none
            regions = [
                jnp.pad(part, [(0, 0), (0, 1)] + [(0, 0)] * (part.ndim - 2)) for part in regions
            ]
        return jax.vmap(select_in_image)(*regions, sizes)


def average_stages(logits: Sequence[jax.Array]) -> jax.Array:
    """Averages the class probabilities of the stages of a cascade, as detectron2 does.

    Args:
      logits: [..., 1 + K] for each stage.

    Returns:
      Probabilities [..., 1 + K].
    """
    return jnp.mean(jnp.stack([jax.nn.softmax(each) for each in logits]), axis=0)
