"""What a detector finds in pictures, in their own pixels: the one way there, for users and for evaluation.

Two halves: `detected` is a program for the device, of static shapes; `found_in_picture` is NumPy, on the host.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.placement import Placement
from segjax.masks import encode_part
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.ops.keypoints import decode_keypoints
from segjax.ops.roi.paste_masks import paste_mask_on_host

MASK_THRESHOLD = 0.5  # of a mask's probability, from which on a pixel is inside


class Found(NamedTuple):
    """The N objects found in a picture, the most certain first.

    hw: (height, width) of the picture; all else is in its pixels. boxes: float32 [N, 4], x1 y1 x2 y2, inside of it.
    labels: int64 [N], 1..K. scores: float32 [N]. masks: N masks as COCO's compressed run lengths, of any resolution a
    few kB each; None if the model makes none. keypoints: float32 [N, J, 3], x, y (continuous: the middle of the first
    pixel is .5) and a score as the model's conventions have it; None if the model makes none. mask_iou: float32 [N],
    the IoU with the truth that the masks' own probabilities promise, see `expected_iou`; None without masks.
    """

    hw: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: list[str] | None = None
    keypoints: np.ndarray | None = None
    mask_iou: np.ndarray | None = None


def detected(
    model: MaskRcnn, variables: Mapping[str, Any], images: jax.Array, sizes: jax.Array
) -> dict[str, jax.Array]:
    """Everything that a detector says of B canvases, in D places a picture; to be compiled.

    Args:
      images: [B, H, W, 3], RGB 0..255. sizes: int [B, 2], (height, width) of the contents.

    Returns:
      The fields of `Detections` by name, and where the model has them "masks", float32 [B, D, 28, 28], probabilities in
      the cells of each box, and "keypoints", float32 [B, D, J, 3], x, y in pixels of the canvas and a score.
    """
    found, masks, heatmaps = model.apply(variables, images, sizes, method="detect")
    rows = found._asdict()
    if masks is not None:
        rows["masks"] = masks
    if heatmaps is not None:
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        points = decode_keypoints(flat(heatmaps), flat(found.boxes))
        score = points.score if model.rules.keypoint_probability else points.logit
        keypoints = jnp.concatenate([points.xy, score[..., None]], axis=-1)
        rows["keypoints"] = keypoints.reshape(*found.scores.shape, *keypoints.shape[1:])
    return rows


def found_in_picture(model: MaskRcnn, row: Mapping[str, np.ndarray], placement: Placement) -> Found:
    """The answers for one picture, carried back into it.

    Args:
      row: of `detected`, without the axis of pictures, on the host. placement: how the picture came onto the canvas.
    """
    valid, hw = np.asarray(row["valid"]), placement.source
    boxes = (
        placement.boxes_back(row["boxes"][valid]).clip(0, (*hw[::-1], *hw[::-1])).astype(np.float32)
    )
    masks = mask_iou = keypoints = None
    if "masks" in row:
        mask_iou = expected_iou(row["masks"][valid])
        masks = [
            _run_lengths(cells, box, hw, model.rules.paste)
            for cells, box in zip(row["masks"][valid], boxes, strict=True)
        ]
    if "keypoints" in row:
        on_canvas = row["keypoints"][valid]
        keypoints = np.concatenate(
            [placement.points_back(on_canvas[..., :2]), on_canvas[..., 2:]], axis=-1
        )
        keypoints = keypoints.astype(np.float32)
    return Found(
        hw,
        boxes,
        row["labels"][valid].astype(np.int64),
        row["scores"][valid],
        masks,
        keypoints,
        mask_iou,
    )


def expected_iou(cells: np.ndarray) -> np.ndarray:
    """What IoU with the truth masks cut at `MASK_THRESHOLD` have, if their probabilities are right: float32 [N].

    The expected intersection, the probabilities inside, over the expected union, all cells inside and the
    probabilities outside. A detector has no estimate of its own; this one has the unit of a SAM's.

    Args:
      cells: [N, S, S], probabilities.
    """
    inside = cells >= MASK_THRESHOLD
    shared, outside = (cells * inside).sum((1, 2)), (cells * ~inside).sum((1, 2))
    return (shared / np.maximum(inside.sum((1, 2)) + outside, 1e-9)).astype(np.float32)


def _run_lengths(cells: np.ndarray, box: np.ndarray, hw: tuple[int, int], rule: str) -> str:
    """The mask of one box, from its cells [28, 28]; an empty one where no pixel of the picture is inside."""
    part, corner = paste_mask_on_host(cells, box, hw, rule=rule, threshold=MASK_THRESHOLD)
    return encode_part(
        part if part.size else np.zeros((1, 1), bool), corner if part.size else (0, 0), hw
    )
