"""Boxes of COCO annotations, checked against the masks beside them.

COCO's bbox is x, y, width, height in pixels. Files of other tools hold corners, shares of the image
or boxes of an earlier version of the mask under the same name.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from segjax.data.sources.annotations.segmentations import POLYGON_SLACK
from segjax.data.sources.annotations.values import describe, is_list, parse_numbers
from segjax.data.sources.raw import SkipCounts, UnusableError

# A box and the box of its mask agree from this IoU on, as in COCO's loosest threshold.
LEAST_IOU = 0.5
# From this IoU on it is not asked if the numbers mean something else. Near the upper left corner of
# an image, x, y, width, height are nearly the corners.
CLOSE_IOU = 0.9
# Rounding a polygon to pixels moves each edge by at most this many pixels.
ROUNDING = 1.0
# A box without a mask may be cut off at the edge of the image if this share of it stays.
LEAST_INSIDE = 0.5
# Larger coordinates are no pixels, and their products overflow.
_LARGEST = 1e9
_USED = "the mask's box is used"


def has_box(annotation: Mapping[str, Any]) -> bool:
    """Returns False for an annotation whose bbox is missing or holds nothing."""
    bbox = annotation.get("bbox")
    return bbox is not None and bbox not in ("", {}) and not (is_list(bbox) and len(bbox) == 0)


def read_box(bbox: Any, name: str) -> np.ndarray:
    """Converts COCO's x, y, width, height to x1 y1 x2 y2, float64 [4].

    Raises:
      UnusableError: these are not four finite numbers, or the box is empty.
    """
    numbers = parse_numbers(bbox, 4)
    if numbers is None or max(map(abs, numbers)) > _LARGEST:
        raise UnusableError("box is not four numbers", f"{name}, bbox {describe(bbox)}")
    x, y, width, height = numbers
    if width <= 0 or height <= 0:
        raise UnusableError(
            "box with x2 <= x1 or y2 <= y1", f"{name}, bbox (x, y, width, height) {describe(bbox)}"
        )
    return np.array([x, y, x + width, y + height])


def choose_box(
    annotation: Mapping[str, Any],
    mask_box: np.ndarray,
    height: int,
    width: int,
    name: str,
    counts: SkipCounts,
) -> np.ndarray:
    """Returns the annotated box of an object, or its mask's box if that is missing or wrong.

    Args:
      annotation: an entry of "annotations".
      mask_box: float [4], x1 y1 x2 y2 in pixels.
      height: of the image, in pixels.
      width: of the image, in pixels.
      name: of the annotation in the report.
      counts: counts the boxes that were replaced.

    Returns:
      float32 [4], x1 y1 x2 y2 in pixels.
    """
    if not has_box(annotation):
        return mask_box
    bbox = annotation["bbox"]
    try:
        box = read_box(bbox, name)
    except UnusableError as error:
        counts.add_change(f"{error.reason}: {_USED}", str(error))
        return mask_box
    if np.abs(box - mask_box).max() <= ROUNDING:
        return box.astype(np.float32)
    # Other readings of the numbers, which fit the mask to the pixel
    detail = f"{name}, bbox {describe(bbox)}, mask's x1 y1 x2 y2 {mask_box.tolist()}"
    numbers = np.array(parse_numbers(bbox, 4))
    size = np.array([width, height, width, height])
    readings = {
        "box holds the corners x1, y1, x2, y2 instead of x, y, width, height": numbers,
        "box holds shares of the image instead of pixels": box * size,
        "box holds corners in shares of the image": numbers * size,
    }
    iou = _iou(box, mask_box)
    if iou < CLOSE_IOU:
        for reason, reading in readings.items():
            if np.abs(reading - mask_box).max() <= ROUNDING:
                counts.add_change(f"{reason}: {_USED}", detail)
                return mask_box
    if iou < LEAST_IOU or _outside(box, height, width) > POLYGON_SLACK:
        counts.add_change(f"box contradicts its mask: {_USED}", detail)
        return mask_box
    return box.astype(np.float32)


def read_lone_box(
    annotation: Mapping[str, Any], height: int, width: int, name: str, counts: SkipCounts
) -> np.ndarray:
    """Reads the box of an object without a mask, clipped to the image.

    Args: as `choose_box`.

    Returns:
      float32 [4], x1 y1 x2 y2 in pixels, inside the image.

    Raises:
      UnusableError: the box is malformed, or most of it lies outside of the image.
    """
    box = read_box(annotation["bbox"], name)
    detail = f"{name}, bbox {describe(annotation['bbox'])} in an image of {height} x {width}"
    if np.abs(box).max() <= 2 and box[2:].max() - box[:2].min() <= 1 < min(height, width):
        raise UnusableError(
            "box lies in the first pixel; are its numbers shares of the image?",
            detail,
        )
    clipped = np.clip(box, 0, [width, height, width, height])
    inside = np.prod((clipped[2:] - clipped[:2]).clip(0)) / np.prod(box[2:] - box[:2])
    if inside < LEAST_INSIDE:
        raise UnusableError("box does not fit its image", detail)
    if _outside(box, height, width) > POLYGON_SLACK:
        counts.add_change("box without a mask clipped to its image", detail)
    return clipped.astype(np.float32)


def look_like_corners(bboxes: Iterable[tuple[Any, int, int]]) -> bool:
    """Returns True if boxes are corners x1, y1, x2, y2: all fit so, and some fit only so.

    Args:
      bboxes: the four numbers of each box, and the height and width of its image in pixels.
    """
    leaves = False
    for bbox, height, width in bboxes:
        numbers = parse_numbers(bbox, 4)
        if numbers is None:
            continue
        x, y, right, bottom = numbers
        if not (x < right <= width + POLYGON_SLACK and y < bottom <= height + POLYGON_SLACK):
            return False
        leaves |= x + right > width + POLYGON_SLACK or y + bottom > height + POLYGON_SLACK
    return leaves


def fill_box(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the mask bool [height, width] of the pixels that a box touches, at least one."""
    x1, y1 = np.minimum(np.floor(box[:2]).astype(int), [width - 1, height - 1])
    x2, y2 = np.maximum(np.ceil(box[2:]).astype(int), [x1 + 1, y1 + 1])
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def _iou(box: np.ndarray, other: np.ndarray) -> float:
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    shared = np.prod((high - low).clip(0))
    areas = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])
    return float(shared / (areas - shared))


def _outside(box: np.ndarray, height: int, width: int) -> float:
    """Returns by how many pixels a box leaves its image."""
    return float(max(-box.min(), box[2] - width, box[3] - height))
