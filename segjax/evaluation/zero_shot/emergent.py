"""Measures of masks that were found without labels: CorLoc, F, mean IoU of matched objects, AR."""

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from segjax.evaluation.zero_shot.proposals import evaluate_proposals
from segjax.masks import compute_mask_box, encode_mask

_BETA_SQUARED = 0.3  # precision counts more than recall, as is usual for salient objects
_THRESHOLDS = 255


def compute_mask_iou(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Computes the IoU of each pair of masks, float64 [K, G]. Two empty masks have 0.

    Args:
      found: bool [K, H, W].
      truth: bool [G, H, W].
    """
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (found, truth))
    both = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1) - both
    return np.where(union > 0, both / np.maximum(union, 1), 0.0)


def match_masks(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the IoU of each object with its own mask, 0 for objects that get none.

    The assignment of masks to objects has the largest sum (Hungarian method).

    Args:
      found: bool [K, H, W].
      truth: bool [G, H, W].

    Returns:
      float64 [G].
    """
    matched = np.zeros(len(truth))
    if len(found) and len(truth):
        iou = compute_mask_iou(found, truth)
        rows, columns = linear_sum_assignment(-iou)
        matched[columns] = iou[rows, columns]
    return matched


def is_localized(mask: np.ndarray, truth: np.ndarray) -> bool:
    """Tells whether a mask's box has an IoU of 0.5 or more with the box of any object.

    Args:
      mask: bool [H, W]. An empty one is never localized.
      truth: bool [G, H, W].
    """
    if not mask.any():
        return False
    left, top, right, bottom = compute_mask_box(mask)
    for one in truth:
        if not one.any():
            continue
        x1, y1, x2, y2 = compute_mask_box(one)
        width, height = min(right, x2) - max(left, x1), min(bottom, y2) - max(top, y1)
        both = max(width, 0) * max(height, 0)
        areas = (right - left) * (bottom - top) + (x2 - x1) * (y2 - y1)
        if both >= 0.5 * (areas - both):
            return True
    return False


def compute_curve(values: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes precision and recall of a map at 255 thresholds, 0/255 .. 254/255.

    Args:
      values: [H, W], 0..1. Pixels above a threshold are foreground.
      truth: bool [H, W].

    Returns:
      precision and recall, float64 [255]. Precision is 1 where nothing is foreground.
    """
    level = np.clip(np.ceil(np.asarray(values, float) * _THRESHOLDS - 1e-9), 0, _THRESHOLDS)
    level = level.astype(int)
    # Number of pixels above each threshold, from the highest down
    count = lambda chosen: np.bincount(chosen, minlength=_THRESHOLDS + 1)[::-1].cumsum()[::-1][1:]
    positive, hits = count(level.reshape(-1)), count(level[truth])
    precision = np.where(positive > 0, hits / np.maximum(positive, 1), 1.0)
    return precision, hits / max(int(np.count_nonzero(truth)), 1)


def compute_max_f(precision: np.ndarray, recall: np.ndarray) -> float:
    """Returns the largest F measure of a curve, with beta squared 0.3.

    Args:
      precision: [thresholds], the mean over images.
      recall: [thresholds], the mean over images.
    """
    total = _BETA_SQUARED * precision + recall
    f = (1 + _BETA_SQUARED) * precision * recall / np.where(total > 0, total, 1)
    return float(f.max())


class EmergentScores:
    """Sums of the measures over images.

    Example:
      >>> scores, mask = EmergentScores(), np.eye(8, dtype=bool)[None]
      >>> scores.add(mask, np.ones(1), mask)
      >>> scores.compute()["mIoU"]
      1.0
    """

    def __init__(self) -> None:
        self._ious: list[np.ndarray] = []
        self._localized: list[bool] = []
        self._curves: list[tuple[np.ndarray, np.ndarray]] = []
        self._content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
        self._rows: list[dict[str, Any]] = []

    def add(self, found: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> None:
        """Adds an image.

        Args:
          found: bool [K, H, W], the highest score first.
          scores: [K].
          truth: bool [G, H, W], objects. An image without any counts for nothing.
        """
        truth = np.asarray(truth, bool)
        truth = truth[truth.any(axis=(1, 2))]
        if not len(truth):
            return
        number, hw = len(self._localized) + 1, truth.shape[1:]
        self._ious.append(match_masks(found, truth))
        self._localized.append(len(found) > 0 and is_localized(found[0], truth))
        union = found.any(axis=0) if len(found) else np.zeros(hw, bool)
        self._curves.append(compute_curve(union, truth.any(axis=0)))
        self._content["images"].append({"id": number, "height": hw[0], "width": hw[1]})
        describe = lambda mask: {"size": list(hw), "counts": encode_mask(mask)}
        for mask in truth:
            row = {"id": len(self._content["annotations"]) + 1, "image_id": number}
            row |= {"category_id": 1, "iscrowd": 0, "area": int(mask.sum())}
            self._content["annotations"].append(row | {"segmentation": describe(mask)})
        for mask, score in zip(found, scores, strict=True):
            row = {"image_id": number, "category_id": 1, "score": float(score)}
            self._rows.append(row | {"segmentation": describe(mask)})

    def compute(self) -> dict[str, float]:
        """Computes the measures.

        Returns:
          "mIoU" (of all objects, matched), "CorLoc" (share of images whose first mask is
          localized), "maxF" (of the union of masks and the union of objects), "AR@100", "images",
          "objects" and "masks".

        Raises:
          ValueError: no image with an object was added.
        """
        if not self._localized:
            raise ValueError("no image with an object; nothing can be measured")
        # Means over images, and recall by COCO
        precision, recall = (np.mean(x, axis=0) for x in zip(*self._curves, strict=True))
        content = self._content | {"categories": [{"id": 1, "name": "object"}]}
        recalls = {"AR@100": 0.0}
        if self._rows:
            recalls = evaluate_proposals(content, self._rows, limits=(1, 10, 100))
        return {
            "mIoU": float(np.concatenate(self._ious).mean()),
            "CorLoc": float(np.mean(self._localized)),
            "maxF": compute_max_f(precision, recall),
            "AR@100": recalls["AR@100"],
            "images": len(self._localized),
            "objects": len(content["annotations"]),
            "masks": len(self._rows),
        }
