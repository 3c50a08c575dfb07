"""Average recall of mask proposals, whatever their class (SAM, section 7.3 and appendix D.3)."""

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from segjax.evaluation.coco import index_annotations, load_results
from segjax.evaluation.foreign_masks import check_masks

LIMITS = (1, 10, 100, 1000)
_SIZES = ("", "s", "m", "l")
_GROUPS = {"r": "rare", "c": "common", "f": "frequent"}


def evaluate_proposals(
    ground_truth: Mapping[str, Any],
    results: Iterable[Mapping[str, Any]],
    *,
    limits: Sequence[int] = LIMITS,
    kind: str = "segm",
) -> dict[str, float]:
    """Computes the average recall of proposals, over IoU thresholds from 0.5 to 0.95.

    COCO's rule: proposals are taken in the order of their scores, and each gets the best object
    that is still free. detectron2's rule for boxes, which matches the best pairs first, gives a
    little more.

    Args:
      ground_truth: content of a COCO or LVIS annotation file. Crowds are ignored.
      results: rows with "image_id", "score" and "segmentation" (or "bbox"). Their categories do not
        matter.
      limits: numbers of proposals of an image that count, those of the highest scores.
      kind: "segm" or "bbox".

    Returns:
      {"AR@1", ...}; of the largest limit also "AR@1000/s", "/m" and "/l" by object size (COCO's
      32^2 and 96^2 pixels), and "/rare", "/common", "/frequent" if the categories say their
      frequency. Groups without an object are absent.

    Raises:
      ValueError: results of other images, without a score or without the field of the kind.
    """
    field = {"segm": "segmentation", "bbox": "bbox"}[kind]
    images = {image["id"] for image in ground_truth["images"]}
    rows = []
    for row in results:
        if row.get("image_id") not in images:
            raise ValueError(
                f"a proposal has the image {row.get('image_id')!r}, which is none of the "
                f"{len(images)} of the ground truth"
            )
        if field not in row or not np.isfinite(row.get("score", np.nan)):
            raise ValueError(f"a proposal of image {row['image_id']!r} lacks {field} or a score")
        rows.append({"category_id": 1, **{k: row[k] for k in ("image_id", "score", field)}})
    if kind == "segm":
        check_masks(ground_truth["images"], [*ground_truth["annotations"], *rows])
    recall = _compute_recall(ground_truth, ground_truth["annotations"], rows, limits, kind)
    found = {}
    for m, limit in enumerate(limits):
        _add(found, f"AR@{limit}", recall[:, 0, m])
    for a, size in enumerate(_SIZES):
        if size:
            _add(found, f"AR@{limits[-1]}/{size}", recall[:, a, -1])
    # By frequency: objects of other categories are ignored
    frequency = {c["id"]: c.get("frequency") for c in ground_truth["categories"]}
    for letter, name in _GROUPS.items():
        if letter not in frequency.values():
            continue
        own = [
            row if frequency.get(row["category_id"]) == letter else dict(row, iscrowd=1)
            for row in ground_truth["annotations"]
        ]
        group = _compute_recall(ground_truth, own, rows, limits[-1:], kind)
        _add(found, f"AR@{limits[-1]}/{name}", group[:, 0, -1])
    return found


def _compute_recall(
    ground_truth: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    rows: list[dict[str, Any]],
    limits: Sequence[int],
    kind: str,
) -> np.ndarray:
    """Returns the recall [T, A, M] over IoU thresholds, object sizes and limits. -1: no object."""
    # pycocotools writes into the rows
    results = [dict(row) for row in rows]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            index_annotations(ground_truth, annotations), load_results(ground_truth, results), kind
        )
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"][:, 0]


def _add(found: dict[str, float], name: str, recall: np.ndarray) -> None:
    if (measured := recall[recall > -1]).size:
        found[name] = float(measured.mean())
