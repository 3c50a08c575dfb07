"""Annotations of COCO files: masks from polygons and run lengths, boxes and keypoints."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from segjax.data.sources.raw import UnusableError
from segjax.masks import RecordError, decode_mask, decode_run_lengths, parse_run_lengths

# Annotation tools draw along the edge of the image and round. A vertex at most this far outside, in
# pixels, is clipped. One further out belongs to another image.
POLYGON_SLACK = 2.0


def read_annotations(
    path: pathlib.Path, image_fields: tuple[str, ...] = ("id", "file_name")
) -> dict[str, Any]:
    """Reads a COCO annotation file and checks its structure.

    Args:
      path: of the JSON file.
      image_fields: fields that each entry of "images" must have.

    Raises:
      ValueError: the file is not JSON, or a list or field is missing.
    """
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); is the download complete?") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path} is not a COCO instance file: it has no list {key!r}")
    required = {"images": image_fields, "annotations": ("id",), "categories": ("id", "name")}
    for key, fields in required.items():
        for entry in content[key]:
            missing = [field for field in fields if field not in entry]
            if missing:
                raise ValueError(
                    f"{path}: an entry of {key!r} has no {missing[0]!r}: {str(entry)[:100]}"
                )
            if key != "images" and not isinstance(entry["id"], int):
                raise ValueError(
                    f"{path}: an id in {key!r} is {entry['id']!r}; expected a whole number"
                )
    return content


def decode_segmentation(segmentation: Any, height: int, width: int, name: str) -> np.ndarray:
    """Decodes a COCO segmentation to a mask.

    Args:
      segmentation: list of polygons (their union is the mask), or a run-length encoding,
        compressed or not.
      height: of the image, in pixels.
      width: of the image, in pixels.
      name: of the annotation in error messages.

    Returns:
      bool [height, width].

    Raises:
      UnusableError: the segmentation is missing or malformed, or does not fit the image.
    """
    if isinstance(segmentation, Mapping):
        return _decode_rle(segmentation, height, width, name)
    is_list = isinstance(segmentation, Sequence) and not isinstance(segmentation, str)
    if not is_list or len(segmentation) == 0:
        raise UnusableError("no segmentation", name)
    for polygon in segmentation:
        _check_polygon(polygon, height, width, name)
    parts = coco_mask.frPyObjects(
        [[float(value) for value in polygon] for polygon in segmentation], height, width
    )
    return decode_mask(coco_mask.merge(parts)["counts"].decode("ascii"), height, width)


def _check_polygon(polygon: Any, height: int, width: int, name: str) -> None:
    """Raises UnusableError unless a polygon is well-formed and lies in the image."""
    try:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
    except (ValueError, TypeError) as error:
        raise UnusableError("polygon is not a list of x, y pairs", f"{name} ({error})") from error
    # Two points enclose no area.
    if len(points) < 3 or not np.isfinite(points).all():
        raise UnusableError(
            "polygon has fewer than 3 points or a NaN",
            f"{name}, {len(points)} points",
        )
    low, high = points.min(0), points.max(0)
    if (
        low.min() < -POLYGON_SLACK
        or high[0] > width + POLYGON_SLACK
        or high[1] > height + POLYGON_SLACK
    ):
        extent = f"x {low[0]:g}..{high[0]:g}, y {low[1]:g}..{high[1]:g}"
        raise UnusableError(
            "polygon does not fit its image", f"{name} ({extent} in an image of {height} x {width})"
        )


def _decode_rle(segmentation: Mapping[str, Any], height: int, width: int, name: str) -> np.ndarray:
    """Decodes a run-length encoding, whose "counts" are a string or a list of integers."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if list(size or ()) != [height, width]:
        raise UnusableError(
            "RLE does not fit its image",
            f"{name} (RLE of size {size} for an image of {height} x {width})",
        )
    try:
        if isinstance(counts, str):
            runs = parse_run_lengths(counts)
        else:
            runs = np.asarray(counts, np.int64).reshape(-1)
        return decode_run_lengths(runs, height, width, name)
    except (RecordError, ValueError, TypeError) as error:
        raise UnusableError("RLE does not fit its image", f"{name} ({error})") from error


def read_keypoints(annotation: Mapping[str, Any], count: int, name: str) -> np.ndarray:
    """Reads the keypoints of an annotation.

    COCO names pixels. As in detectron2, a keypoint is the middle of its pixel.

    Args:
      annotation: an entry of "annotations".
      count: expected number of keypoints.
      name: of the annotation in error messages.

    Returns:
      float32 [count, 3], x, y and visibility, or (0, 0, 0) for unlabeled keypoints.

    Raises:
      UnusableError: there is another number of keypoints.
    """
    flat = annotation.get("keypoints") or [0] * 3 * count
    try:
        keypoints = np.asarray(flat, np.float32).reshape(count, 3)
    except (ValueError, TypeError) as error:
        raise UnusableError(
            f"keypoints are not {count} times x, y, visibility", f"{name} ({error})"
        ) from error
    return np.where(keypoints[:, 2:] > 0, keypoints + np.float32([0.5, 0.5, 0]), 0)


def read_box(bbox: Sequence[float]) -> np.ndarray:
    """Converts COCO's x, y, width, height to x1 y1 x2 y2, float32 [4]."""
    x, y, width, height = np.asarray(bbox, np.float64)
    return np.array([x, y, x + width, y + height], np.float32)


def check_box_numbers(bbox: Any, name: str) -> None:
    """Raises UnusableError unless COCO's x, y, width, height are finite and the box not empty."""
    is_list = isinstance(bbox, Sequence) and len(bbox) == 4
    values = np.asarray(bbox, np.float64) if is_list else np.full(4, np.nan)
    if not np.isfinite(values).all():
        raise UnusableError("box is not four numbers", f"{name}, bbox {bbox}")
    if values[2] <= 0 or values[3] <= 0:
        raise UnusableError(
            "box with x2 <= x1 or y2 <= y1", f"{name}, bbox (x, y, width, height) {bbox}"
        )
