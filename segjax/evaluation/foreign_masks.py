"""Checks of masks from files, before pycocotools reads them in C without any checks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from segjax.masks import MAX_PIXELS, RecordError, find_broken_rles, parse_rle

# pycocotools walks along the edges of polygons pixel by pixel.
_MAX_COORDINATE = 10**6
# Characters of masks that are checked together
_BATCH = 2**20


def check_masks(images: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> None:
    """Raises ValueError unless pycocotools can use the masks of annotations or results.

    Args:
      images: list "images" of the ground truth.
      rows: annotations or results. Those without "segmentation" are accepted.
    """
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in images}
    waiting, characters = [], 0
    for row in rows:
        segmentation, size = row.get("segmentation", []), sizes.get(row["image_id"])
        if isinstance(segmentation, list):
            _check_polygons(segmentation, _name(row))
        elif _is_usual(segmentation, size):
            waiting.append((row, size))
            characters += len(segmentation["counts"])
        else:
            _check_rle(row, size)
        if characters > _BATCH:
            _check_together(waiting)
            waiting, characters = [], 0
    _check_together(waiting)


def _is_usual(segmentation: Any, size: tuple | None) -> bool:
    """Tells whether a mask is a compressed one of the image's size, as nearly all are."""
    return (
        isinstance(segmentation, Mapping)
        and isinstance(segmentation.get("counts"), str)
        and len(segmentation["counts"]) <= _BATCH
        and size is not None
        and all(type(side) is int and 0 < side <= MAX_PIXELS for side in size)
        and size[0] * size[1] <= MAX_PIXELS
        and segmentation.get("size") in (list(size), size)
    )


def _check_together(waiting: Sequence[tuple[Mapping, tuple[int, int]]]) -> None:
    """Checks usual masks. One after another would take a good part of the evaluation."""
    rles = [row["segmentation"]["counts"] for row, _ in waiting]
    for index in find_broken_rles(rles, [height * width for _, (height, width) in waiting]):
        _check_rle(*waiting[index])


def _check_rle(row: Mapping[str, Any], size: tuple | None) -> None:
    """Checks one mask. Raises RecordError with the reason."""
    found = parse_rle(row["segmentation"], _name(row))[1:]
    # Masks of different sizes would have no overlap at all, without an error.
    if size is not None and None not in size and found != size:
        raise RecordError(
            _name(row), "size", f"{found[0]} x {found[1]}", f"the image's, {size[0]} x {size[1]}"
        )


def _name(row: Mapping[str, Any]) -> str:
    return f"a mask of image {row['image_id']!r}"


def _check_polygons(polygons: list, where: str) -> None:
    """Raises RecordError unless polygons are lists of numbers that pycocotools can draw."""
    for polygon in polygons:
        try:
            points = np.asarray(polygon, np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            raise RecordError(
                where, "polygon", f"not numbers ({error})", "x, y, x, y, ..."
            ) from error
        if points.ndim != 1:
            raise RecordError(
                where, "polygon", f"a list of shape {list(points.shape)}", "x, y, x, y, ..."
            )
        if not (np.abs(points) <= _MAX_COORDINATE).all():
            raise RecordError(
                where, "polygon", "NaN or far outside", f"coordinates up to {_MAX_COORDINATE}"
            )
