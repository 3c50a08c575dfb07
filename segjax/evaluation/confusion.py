"""Which class was taken for which: detections matched with objects whatever their classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

NOTHING = "nothing"


def detection_confusion(
    truth: Mapping[str, Any],
    results: Iterable[Mapping[str, Any]],
    *,
    kind: str = "bbox",
    threshold: float = 0.5,
    min_score: float = 0.5,
) -> tuple[np.ndarray, list[str]]:
    """Counts of (class given, class named), of COCO's formats (see `segjax.evaluation.coco_format`).

    The most certain detection chooses first: the object not yet taken that it overlaps most, if by the threshold at
    least. What lies in a crowd, by that share of itself, is not counted.

    Args:
      kind: "bbox" or "segm": what overlaps; the truth's masks are run lengths then.
      threshold: IoU from which a detection is of an object.
      min_score: less certain detections are passed over.

    Returns:
      int64 [K + 1, K + 1], the last row objects that are not there, the last column objects that were not found; the
      K + 1 names, the last of which is "nothing".
    """
    field = {"bbox": "bbox", "segm": "segmentation"}[kind]
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    place = {category["id"]: row for row, category in enumerate(categories)}
    objects, found = defaultdict(list), defaultdict(list)
    for row in truth["annotations"]:
        objects[row["image_id"]].append(row)
    for row in results:
        if row["score"] >= min_score:
            found[row["image_id"]].append(row)
    nothing = len(categories)
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    for image in objects.keys() | found.keys():
        given = objects[image]
        named = sorted(found[image], key=lambda row: -row["score"])
        for object_index, found_index in _pairs(given, named, field, threshold):
            row = nothing if object_index is None else place[given[object_index]["category_id"]]
            column = nothing if found_index is None else place[named[found_index]["category_id"]]
            counts[row, column] += 1
    return counts, [*(category["name"] for category in categories), NOTHING]


def _pairs(
    given: list, named: list, field: str, threshold: float
) -> list[tuple[int | None, int | None]]:
    """(object, detection) that belong together; with None for the other where one has none."""
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in given], bool)
    pairs, free = [], ~crowd
    if given and named:
        overlap = coco_mask.iou(
            [row[field] for row in named], [row[field] for row in given], crowd.astype(int).tolist()
        )
    for index in range(len(named)):
        best = np.where(free, overlap[index], -1) if given else np.zeros(0)
        if best.size and best.max() >= threshold:
            pairs.append((int(best.argmax()), index))
            free[best.argmax()] = False
        elif not (crowd.any() and overlap[index][crowd].max() >= threshold):
            pairs.append((None, index))
    return pairs + [(int(index), None) for index in np.flatnonzero(free)]
