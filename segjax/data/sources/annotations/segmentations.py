"""Masks from COCO's segmentations: polygons and run-length encodings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from segjax.data.sources.annotations.values import (
    describe,
    is_list,
    parse_number,
    parse_whole_number,
)
from segjax.data.sources.raw import SkipCounts, UnusableError
from segjax.masks import decode_mask, decode_run_lengths

# Annotation tools draw along the edge of the image and round. A vertex at most this far outside, in
# pixels, is clipped. One further out belongs to another image.
POLYGON_SLACK = 2.0
_NO_PAIRS = "polygon is not a list of x, y pairs"


def has_segmentation(segmentation: Any) -> bool:
    """Returns False for a segmentation that holds nothing, such as None, [] or [[]]."""
    if is_list(segmentation):
        return any(not is_list(part) or len(part) > 0 for part in segmentation)
    return segmentation is not None and segmentation not in ("", {})


def decode_segmentation(
    segmentation: Any,
    height: int,
    width: int,
    name: str,
    counts: SkipCounts | None = None,
) -> np.ndarray:
    """Decodes a COCO segmentation to a mask.

    A polygon that encloses nothing costs only itself. Polygons may be lists of pairs, and a single
    polygon need not be inside another list.

    Args:
      segmentation: list of polygons (their union is the mask), or a run-length encoding,
        compressed or not.
      height: of the image, in pixels.
      width: of the image, in pixels.
      name: of the annotation in error messages.
      counts: counts the parts that were left out.

    Returns:
      bool [height, width].

    Raises:
      UnusableError: the segmentation is missing or malformed, or does not fit the image.
    """
    if isinstance(segmentation, Mapping):
        return _decode_rle(segmentation, height, width, name)
    if not has_segmentation(segmentation):
        raise UnusableError("no segmentation", name)
    if not is_list(segmentation):
        reason = "segmentation is neither polygons nor a run-length encoding"
        raise UnusableError(reason, f"{name}, {describe(segmentation)}")
    counts = counts or SkipCounts()
    polygons, problems = [], []
    for part in _split_polygons(segmentation):
        try:
            points = _read_polygon(part, name)
        except UnusableError as error:
            problems.append(error)
            continue
        _check_extent(points, height, width, name)
        polygons.append(points.ravel().tolist())
    if not polygons:
        raise problems[0]
    for problem in problems:
        counts.add_change(f"part of a polygon left out: {problem.reason}", name)
    parts = coco_mask.frPyObjects(polygons, height, width)
    return decode_mask(coco_mask.merge(parts)["counts"].decode("ascii"), height, width)


def _split_polygons(segmentation: Sequence) -> Sequence:
    """Returns the polygons of a segmentation, which may be a single one without a list around."""
    is_flat = not any(is_list(part) for part in segmentation)
    # Three or more lists of two numbers are points. As polygons, each would enclose nothing.
    is_pairs = len(segmentation) >= 3 and all(_is_point(part) for part in segmentation)
    return [segmentation] if is_flat or is_pairs else segmentation


def _is_point(value: Any) -> bool:
    return is_list(value) and len(value) == 2 and not any(is_list(part) for part in value)


def _read_polygon(polygon: Any, name: str) -> np.ndarray:
    """Returns the points [n, 2] of a polygon. Raises UnusableError if it encloses nothing."""
    if not is_list(polygon):
        raise UnusableError(_NO_PAIRS, f"{name} ({describe(polygon)})")
    if len(polygon) and all(_is_point(part) for part in polygon):
        polygon = [value for point in polygon for value in point]
    try:
        values = np.asarray(polygon)
    except ValueError:  # lists of different lengths
        values = np.empty(0, object)
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        # Rare, and slower: text, or values that are not numbers
        numbers = [v if isinstance(v, float) else parse_number(v) for v in polygon]
        if None in numbers:
            wrong = polygon[numbers.index(None)]
            raise UnusableError(_NO_PAIRS, f"{name} (it holds {describe(wrong)})")
        values = np.array(numbers)
    if len(values) % 2:
        raise UnusableError(_NO_PAIRS, f"{name} ({len(values)} numbers)")
    points = values.astype(np.float64).reshape(-1, 2)
    # Two points enclose no area.
    if len(points) < 3 or not np.isfinite(points).all():
        detail = f"{name}, {len(points)} points"
        raise UnusableError("polygon has fewer than 3 points or a NaN", detail)
    return points


def _check_extent(points: np.ndarray, height: int, width: int, name: str) -> None:
    """Raises UnusableError unless a polygon lies in the image and is larger than one pixel."""
    low, high = points.min(0), points.max(0)
    extent = f"{name} (x {low[0]:g}..{high[0]:g}, y {low[1]:g}..{high[1]:g}"
    extent += f" in an image of {height} x {width})"
    if (
        low.min() < -POLYGON_SLACK
        or high[0] > width + POLYGON_SLACK
        or high[1] > height + POLYGON_SLACK
    ):
        raise UnusableError("polygon does not fit its image", extent)
    if low.min() >= 0 and high.max() <= 1 < min(height, width):
        raise UnusableError(
            "polygon lies in the first pixel; are its numbers shares of the image?",
            extent,
        )


def _decode_rle(segmentation: Mapping[str, Any], height: int, width: int, name: str) -> np.ndarray:
    """Decodes a run-length encoding, whose "counts" are a string or a list of integers."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    numbers = [parse_whole_number(value) for value in size] if is_list(size) else []
    reason = "RLE does not fit its image"
    if numbers != [height, width]:
        raise UnusableError(
            reason, f"{name} (RLE of size {describe(size)} for an image of {height} x {width})"
        )
    try:
        if isinstance(counts, str):
            return decode_mask(counts, height, width)
        if not is_list(counts):
            raise ValueError(f"counts are {type(counts).__name__}; expected text or a list")
        if not all(type(run) is int for run in counts):
            counts = [parse_whole_number(run) for run in counts]
            if None in counts:
                raise ValueError("counts hold something else than whole numbers")
        return decode_run_lengths(counts, height, width, "mask")
    except (ValueError, TypeError, OverflowError) as error:
        raise UnusableError(reason, f"{name} ({error})") from error
