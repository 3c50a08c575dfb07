"""Confusion matrix of detections, which are matched with objects whatever their classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from segjax.evaluation.foreign_masks import check_masks

BACKGROUND = "background"


def compute_confusion_matrix(
    ground_truth: Mapping[str, Any],
    results: Iterable[Mapping[str, Any]],
    *,
    kind: str = "bbox",
    threshold: float = 0.5,
    min_score: float = 0.5,
) -> tuple[np.ndarray, list[str]]:
    """Counts pairs of (true class, predicted class) from COCO annotations and results.

    The most confident detection is matched first, with the free object that it overlaps most.
    Detections inside a crowd, by the share `threshold` of their own area, are not counted.

    Args:
      ground_truth: see `build_coco_ground_truth`.
      results: see `CocoResults.rows`.
      kind: "bbox" or "segm", the overlap measure. "segm" needs run-length encoded masks.
      threshold: IoU from which a detection matches an object.
      min_score: less confident detections are ignored.

    Returns:
      counts: int64 [K + 1, K + 1]. The last row counts false positives, the last column missed
        objects.
      names: K class names and "background".

    Raises:
      ValueError: a mask that does not fit its image.
    """
    field = {"bbox": "bbox", "segm": "segmentation"}[kind]
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    class_of = {category["id"]: index for index, category in enumerate(categories)}
    results = list(results)
    if kind == "segm":
        check_masks(ground_truth["images"], [*ground_truth["annotations"], *results])
    # Objects and detections by image
    objects, detections = defaultdict(list), defaultdict(list)
    for row in ground_truth["annotations"]:
        objects[row["image_id"]].append(row)
    for row in results:
        if row["score"] >= min_score:
            detections[row["image_id"]].append(row)
    # Count matched pairs, false positives and missed objects
    nothing = len(categories)
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    for image in objects.keys() | detections.keys():
        given = objects[image]
        predicted = sorted(detections[image], key=lambda row: -row["score"])
        for true_index, index in _match(given, predicted, field, threshold):
            row = nothing if true_index is None else class_of[given[true_index]["category_id"]]
            column = nothing if index is None else class_of[predicted[index]["category_id"]]
            counts[row, column] += 1
    return counts, [*(category["name"] for category in categories), BACKGROUND]


def _match(
    given: list, predicted: list, field: str, threshold: float
) -> list[tuple[int | None, int | None]]:
    """Returns pairs (object index, detection index), with None for an unmatched partner."""
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in given], bool)
    pairs, free = [], ~crowd
    if given and predicted:
        regions = [row[field] for row in predicted], [row[field] for row in given]
        overlap = coco_mask.iou(*regions, crowd.astype(int).tolist())
    for index in range(len(predicted)):
        best = np.where(free, overlap[index], -1) if given else np.zeros(0)
        if best.size and best.max() >= threshold:
            pairs.append((int(best.argmax()), index))
            free[best.argmax()] = False
        elif not (crowd.any() and overlap[index][crowd].max() >= threshold):
            pairs.append((None, index))
    return pairs + [(int(index), None) for index in np.flatnonzero(free)]
