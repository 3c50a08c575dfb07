"""Draws images with their ground truth beside their detections, from COCO's formats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax import viz
from segjax.masks import decode_rle


def draw_sheet(
    images: Mapping[int, np.ndarray],
    ground_truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    *,
    threshold: float,
) -> np.ndarray:
    """Draws a row for each image: its ground truth and its detections.

    Args:
      images: index in the ground truth -> uint8 [H, W, 3].
      ground_truth: content of a COCO annotation file.
      results: content of a COCO results file.
      threshold: detections of a lower score are not drawn.

    Returns:
      uint8 [H, W, 3], see `draw_detection_sheet`.
    """
    # Rows of the ground truth and of the results, by image
    groups = {ground_truth["images"][index]["id"]: ([], []) for index in images}
    for which, rows in enumerate((ground_truth["annotations"], results)):
        for row in rows:
            if row["image_id"] in groups:
                groups[row["image_id"]][which].append(row)

    classes = {category["id"]: k for k, category in enumerate(ground_truth["categories"])}
    objects, detections = zip(
        *([_to_drawable(rows, classes) for rows in pair] for pair in groups.values()), strict=True
    )
    names = [category["name"] for category in ground_truth["categories"]]
    return viz.draw_detection_sheet(
        list(images.values()), objects, detections, names, threshold=threshold
    )


def _to_drawable(
    rows: Sequence[Mapping[str, Any]], classes: Mapping[int, int]
) -> dict[str, np.ndarray]:
    """Converts the COCO rows of one image to arguments of `draw_detection_sheet`.

    Args:
      rows: annotations or results of one image.
      classes: category id -> class index.
    """
    # COCO boxes are x, y, width, height.
    corners = np.array([row["bbox"] for row in rows], float).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    labels = np.array([classes[row["category_id"]] for row in rows], int)
    drawable = {"boxes": corners, "labels": labels}
    if rows and "score" in rows[0]:
        drawable["scores"] = np.array([row["score"] for row in rows])
    if rows and "segmentation" in rows[0]:
        # The segmentation of an object without a mask is its box.
        masks = [decode_rle(row["segmentation"]) & (not row.get("box_only")) for row in rows]
        drawable["masks"] = np.array(masks)
    if rows and "keypoints" in rows[0]:
        keypoints = np.array([row["keypoints"] for row in rows], float).reshape(len(rows), -1, 3)
        # COCO's coordinates are pixel indices, ours are continuous.
        keypoints[..., :2] += 0.5
        # The third value of a detection is a score. Every detected keypoint is drawn as visible.
        keypoints[..., 2] = 2 if "scores" in drawable else keypoints[..., 2]
        drawable["keypoints"] = keypoints
    return drawable
