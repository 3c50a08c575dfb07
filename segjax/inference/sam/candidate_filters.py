"""Filters of candidate masks: non-maximum suppression, and removal of small regions.

SAM, appendix B ("Filtering" and "Postprocessing").
"""

import dataclasses

import jax
import numpy as np

from segjax.inference.sam.candidates import MaskCandidates
from segjax.masks import compute_mask_box, decode_mask, encode_mask, remove_small_regions
from segjax.ops.nms import nms

# Boxes that are compared at once. A block joins the boxes selected so far, which is still greedy
# suppression, and the matrix of overlaps stays small.
BLOCK = 2048
_nms = jax.jit(nms)


def get_iou_floor(threshold: float) -> float:
    """Returns the predicted IoU that masks must exceed.

    Args:
      threshold: As given by the user. As in segment-anything, 0 or less means no threshold.
    """
    return threshold if threshold > 0 else -np.inf


def suppress_boxes(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Applies greedy non-maximum suppression.

    Args:
      boxes: float32 [N, 4], x1 y1 x2 y2.
      scores: float32 [N].
      threshold: Of two boxes whose IoU exceeds it, the one with the lower score is removed.

    Returns:
      int [M], indices of the remaining boxes, best score first. Of equal scores the earlier box
      comes first.
    """
    order, selected = np.argsort(-scores, kind="stable"), np.zeros(0, int)
    for start in range(0, len(order), BLOCK):
        trial = np.concatenate([selected, order[start : start + BLOCK]])
        size = 1 << max(len(trial) - 1, 63).bit_length()  # few sizes, few compilations
        padded = np.pad(boxes[trial], ((0, size - len(trial)), (0, 0)))
        rank = -np.arange(size, dtype=np.float32)
        keep = _nms(padded, rank, np.float32(threshold), np.arange(size) < len(trial))
        selected = trial[np.asarray(keep)[: len(trial)]]
    return selected


def suppress_within_crops(candidates: MaskCandidates, threshold: float) -> MaskCandidates:
    """Applies non-maximum suppression within each crop, by predicted IoU.

    Args:
      candidates: The candidates.
      threshold: IoU of boxes above which the mask with the lower predicted IoU is removed.

    Returns:
      The rest, crop by crop, each in descending order of predicted IoU.
    """
    selected = []
    for crop in np.unique(candidates.crop):
        index = np.flatnonzero(candidates.crop == crop)
        scores = candidates.predicted_iou[index]
        selected.append(index[suppress_boxes(candidates.box[index], scores, threshold)])
    return candidates.take(np.concatenate(selected) if selected else np.zeros(0, int))


def suppress_between_crops(candidates: MaskCandidates, threshold: float) -> MaskCandidates:
    """Applies non-maximum suppression between crops. Masks of smaller crops win.

    Args:
      candidates: The candidates.
      threshold: IoU of boxes above which the mask of the larger crop is removed.
    """
    if len(candidates.crops) < 2:
        return candidates
    sizes = np.array([np.prod(crop.size) for crop in candidates.crops], np.float32)
    scores = 1 / sizes[candidates.crop]
    return candidates.take(suppress_boxes(candidates.box, scores, threshold))


def clean_masks(candidates: MaskCandidates, min_area: int, threshold: float) -> MaskCandidates:
    """Removes small holes and islands, then suppresses masks that became duplicates.

    Args:
      candidates: The candidates.
      min_area: Holes and islands of fewer pixels are removed.
      threshold: Of two masks whose boxes have a higher IoU, an edited one is removed first.
    """
    if not len(candidates):
        return candidates
    # Clean every mask and measure it again.
    rles, boxes, areas, unchanged = [], [], [], []
    for rle in candidates.rle:
        mask, edited = remove_small_regions(decode_mask(rle, *candidates.hw), min_area)
        rles.append(encode_mask(mask) if edited else rle)
        boxes.append(compute_mask_box(mask) - (0, 0, 1, 1))
        areas.append(np.count_nonzero(mask))
        unchanged.append(not edited)
    cleaned = dataclasses.replace(
        candidates, rle=rles, box=np.array(boxes, np.float32), area=np.array(areas)
    )
    # Unchanged masks have the higher score, so an edited duplicate is removed first.
    scores = np.array(unchanged, np.float32)
    return cleaned.take(suppress_boxes(cleaned.box, scores, threshold))
