"""Runs a detector on canvases and converts its detections to pixels of the original images.

Users and the evaluation share these two steps. `detect_on_canvas` is a device program with static
shapes. `to_image_frame` runs on the host, in NumPy.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.placement import Placement, place_whole_image
from segjax.masks import encode_mask_crop
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.ops.keypoints import decode_keypoints
from segjax.ops.roi.paste_masks import paste_mask_on_host

MASK_THRESHOLD = 0.5  # pixels of at least this mask probability are inside


class ImageDetections(NamedTuple):
    """N detections of one image, by falling score, in pixels of the original image.

    Attributes:
      hw: (height, width) of the image.
      boxes: float32 [N, 4], x1 y1 x2 y2, clipped to the image.
      labels: int64 [N], 1..K.
      scores: float32 [N], probabilities.
      masks: N compressed run-length encodings, or None if the model has no mask head.
      keypoints: float32 [N, J, 3], x, y and a score, or None without a keypoint head. Coordinates
        are continuous: the center of the first pixel is 0.5. The score is a logit or a probability,
        depending on the model's conventions.
      mask_iou: float32 [N], expected IoU of each mask with the ground truth, see `expected_iou`.
        None without masks.
      stuff: uint8 [H, W], class 1..S of each pixel, 0 on things. None without a semantic head.
    """

    hw: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: list[str] | None = None
    keypoints: np.ndarray | None = None
    mask_iou: np.ndarray | None = None
    stuff: np.ndarray | None = None


def detect_on_canvas(
    model: MaskRcnn, variables: Mapping[str, Any], images: jax.Array, sizes: jax.Array
) -> dict[str, jax.Array]:
    """Detects the objects on B canvases, in D slots per image. Meant to be compiled.

    Args:
      model: the detector.
      variables: its variables.
      images: uint8 or float [B, H, W, 3], RGB 0..255.
      sizes: int [B, 2], (height, width) of the image content on each canvas.

    Returns:
      The fields of `Detections` by name. With a mask head also "masks" float32 [B, D, 28, 28],
      probabilities in the cells of each box. With a keypoint head also "keypoints" float32
      [B, D, J, 3], x, y in canvas pixels and a score. With a semantic head also "stuff" uint8
      [B, H, W], the class of each pixel.
    """
    (detections, masks, heatmaps), stuff = model.apply(
        variables, images, sizes, method=_detect_with_stuff
    )
    rows = detections._asdict()
    if stuff is not None:
        rows["stuff"] = stuff
    if masks is not None:
        rows["masks"] = masks
    if heatmaps is not None:
        flatten = lambda x: x.reshape(-1, *x.shape[2:])
        points = decode_keypoints(flatten(heatmaps), flatten(detections.boxes))
        # torchvision reports logits, detectron2 probabilities.
        score = points.score if model.output_rules.keypoint_probability else points.logit
        keypoints = jnp.concatenate([points.xy, score[..., None]], axis=-1)
        rows["keypoints"] = keypoints.reshape(*detections.scores.shape, *keypoints.shape[1:])
    return rows


def _detect_with_stuff(model: MaskRcnn, images: jax.Array, sizes: jax.Array) -> tuple:
    """Returns the outputs of `MaskRcnn.detect`, and the class of stuff of each pixel or None."""
    if model.semantic_head is None:
        return model.detect(images, sizes), None
    levels = model.encode_image(images, sizes)
    stuff = jnp.argmax(model.segment_stuff(levels, sizes), axis=-1).astype(jnp.uint8)
    return model.detect(images, sizes, levels), stuff


def to_image_frame(
    model: MaskRcnn, row: Mapping[str, np.ndarray], placement: Placement
) -> ImageDetections:
    """Converts the detections of one canvas to pixels of the original image.

    Args:
      model: the detector, whose conventions decide how masks are pasted.
      row: output of `detect_on_canvas` for one image, without the image axis, on the host.
      placement: placement of the image on the canvas.

    Returns:
      The valid detections.
    """
    valid, hw = np.asarray(row["valid"]), placement.source
    boxes = placement.invert_boxes(row["boxes"][valid])
    boxes = boxes.clip(0, (*hw[::-1], *hw[::-1])).astype(np.float32)
    # Optional heads
    masks = mask_iou = keypoints = stuff = None
    if "masks" in row:
        cells = row["masks"][valid]
        mask_iou = expected_iou(cells)
        pairs = zip(cells, boxes, strict=True)
        masks = [_paste_and_encode(cell, box, hw, model.output_rules.paste) for cell, box in pairs]
    if "keypoints" in row:
        on_canvas = row["keypoints"][valid]
        xy = placement.invert_points(on_canvas[..., :2])
        keypoints = np.concatenate([xy, on_canvas[..., 2:]], axis=-1).astype(np.float32)
    if "stuff" in row:
        height, width = placement.size
        content = place_whole_image(placement.size, hw)
        stuff = content.apply_labels(np.asarray(row["stuff"])[:height, :width])
    labels, scores = row["labels"][valid].astype(np.int64), row["scores"][valid]
    return ImageDetections(hw, boxes, labels, scores, masks, keypoints, mask_iou, stuff)


def expected_iou(cells: np.ndarray) -> np.ndarray:
    """Computes the IoU with the ground truth that the mask probabilities themselves predict.

    A detector has no IoU prediction head. This number is comparable with the predicted IoU of a
    SAM. With the mask M = {cells >= `MASK_THRESHOLD`} and the probabilities p, the expected
    intersection is the sum of p over M. The expected union is the area of M plus the sum of p
    outside M.

    Args:
      cells: float [N, S, S], probabilities.

    Returns:
      float32 [N].
    """
    inside = cells >= MASK_THRESHOLD
    intersection, outside = (cells * inside).sum((1, 2)), (cells * ~inside).sum((1, 2))
    union = np.maximum(inside.sum((1, 2)) + outside, 1e-9)
    return (intersection / union).astype(np.float32)


def _paste_and_encode(cells: np.ndarray, box: np.ndarray, hw: tuple[int, int], rule: str) -> str:
    """Encodes the mask of one box from its cells [28, 28]."""
    part, corner = paste_mask_on_host(cells, box, hw, rule=rule, threshold=MASK_THRESHOLD)
    if not part.size:
        return encode_mask_crop(np.zeros((1, 1), bool), (0, 0), hw)
    return encode_mask_crop(part, corner, hw)
