"""Panoptic segmentation: instances and stuff in one map without overlaps (arXiv 1801.00868)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

LEAST_SCORE = 0.5
LARGEST_OVERLAP = 0.5  # share of an instance that earlier ones may cover
SMALLEST_STUFF = 4096  # pixels, as in COCO's baseline, for images of about 640 x 480
STUFF_SHARE = SMALLEST_STUFF / (640 * 480)  # the same as a share of the image


def merge_panoptic(
    masks: Sequence[np.ndarray],
    scores: Sequence[float],
    categories: Sequence[int],
    semantic: np.ndarray,
    stuff: Collection[int],
    *,
    least_score: float = LEAST_SCORE,
    largest_overlap: float = LARGEST_OVERLAP,
    smallest_stuff: int = SMALLEST_STUFF,
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Merges instances and a map of classes, as COCO's baseline and Panoptic FPN do.

    Instances are painted in the order of their scores, on pixels that are still free. An instance
    is left out if more than half of it is covered already. Then each class of stuff is painted on
    what is free, if enough of it is.

    Example:
      >>> mask, semantic = np.eye(4, dtype=bool), np.full((4, 4), 7)
      >>> ids, segments = merge_panoptic([mask], [0.9], [1], semantic, {7}, smallest_stuff=1)
      >>> [(row["id"], row["category_id"], row["area"]) for row in segments]
      [(1, 1, 4), (2, 7, 12)]

    Args:
      masks: N masks of things, bool [H, W].
      scores: N scores.
      categories: N category ids.
      semantic: int [H, W], category id of each pixel. Those of things are not used.
      stuff: category ids of stuff.
      least_score: instances of lower score are left out.
      largest_overlap: share of an instance that earlier ones may cover.
      smallest_stuff: free pixels that a class of stuff needs, in the image.

    Returns:
      ids: int64 [H, W], 0 where nothing is.
      segments: "id", "category_id", "isthing", "area", "bbox" [x, y, width, height], and "score" of
        things.

    Raises:
      ValueError: masks of another size than the map, numbers of masks, scores and categories that
        differ, or a category that is both.
    """
    if not len(masks) == len(scores) == len(categories):
        raise ValueError(
            f"{len(masks)} masks, {len(scores)} scores and {len(categories)} categories; expected "
            "one of each per instance"
        )
    if both := set(categories) & set(stuff):
        raise ValueError(f"category {min(both)} is of an instance and of stuff; expected one")
    ids, segments = np.zeros(semantic.shape, np.int64), []
    # Things, the most confident first
    for index in np.argsort(-np.asarray(scores, float), kind="stable"):
        mask = np.asarray(masks[index], bool)
        if mask.shape != ids.shape:
            raise ValueError(
                f"mask {index} is {mask.shape}, the map {ids.shape}; expected one size"
            )
        area = int(np.count_nonzero(mask))
        if scores[index] < least_score or not area:
            continue
        free = mask & (ids == 0)
        if (area - np.count_nonzero(free)) / area > largest_overlap or not free.any():
            continue
        row = {"category_id": int(categories[index]), "isthing": 1, "score": float(scores[index])}
        segments.append(_paint(ids, free, len(segments) + 1, row))
    # Stuff on the rest
    for category in sorted(stuff):
        free = (semantic == category) & (ids == 0)
        if np.count_nonzero(free) >= max(smallest_stuff, 1):
            row = {"category_id": int(category), "isthing": 0}
            segments.append(_paint(ids, free, len(segments) + 1, row))
    return ids, segments


def _paint(
    ids: np.ndarray, pixels: np.ndarray, number: int, row: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the id of a segment into its pixels, and returns its description."""
    ids[pixels] = number
    y, x = np.nonzero(pixels)
    left, top = int(x.min()), int(y.min())
    box = [left, top, int(x.max()) + 1 - left, int(y.max()) + 1 - top]
    return {"id": number, **row, "area": len(x), "bbox": box}
