"""Checks of masks from files, before pycocotools reads them in C without any checks."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from segjax.masks import RecordError, parse_rle

# pycocotools walks along the edges of polygons pixel by pixel.
_MAX_COORDINATE = 10**6


def check_masks(images: Iterable[Mapping[str, Any]], rows: Iterable[Mapping[str, Any]]) -> None:
    """Raises ValueError unless pycocotools can use the masks of annotations or results.

    Args:
      images: list "images" of the ground truth.
      rows: annotations or results. Those without "segmentation" are accepted.
    """
    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in images}
    for row in rows:
        if "segmentation" not in row:
            continue
        segmentation = row["segmentation"]
        where = f"a mask of image {row['image_id']!r}"
        if isinstance(segmentation, list):
            _check_polygons(segmentation, where)
            continue
        size = parse_rle(segmentation, where)[1:]
        expected = sizes.get(row["image_id"], size)
        # Masks of different sizes would have no overlap at all, without an error.
        if expected != size and None not in expected:
            raise RecordError(
                where,
                "size",
                f"{size[0]} x {size[1]}",
                f"the image's, {expected[0]} x {expected[1]}",
            )


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
