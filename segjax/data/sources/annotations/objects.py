"""Objects of records from COCO annotations, one annotation at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.sources.annotations.boxes import choose_box, fill_box, read_lone_box
from segjax.data.sources.annotations.grouping import is_lone_box
from segjax.data.sources.annotations.keypoints import read_keypoints
from segjax.data.sources.annotations.segmentations import decode_segmentation
from segjax.data.sources.annotations.values import (
    describe,
    parse_flag,
    parse_number,
    parse_numbers,
    parse_whole_number,
)
from segjax.data.sources.raw import SkipCounts, UnusableError
from segjax.masks import compute_mask_box, encode_mask

_LARGEST_AREA = float(np.finfo(np.float32).max)
BOX_ONLY = "object has a box and no mask: only detectors can learn it"


class ObjectReader:
    """Reader of the annotations of a split.

    Args:
      category_ids: ids of the categories 0..K-1 in the raw file.
      keypoints: number of keypoints per object.
      file: name of the annotation file in the report.
      corners: read each bbox as x1, y1, x2, y2.
    """

    def __init__(self, category_ids: Sequence[int], keypoints: int, file: str, corners: bool):
        self._categories = {identity: index for index, identity in enumerate(category_ids)}
        self._keypoints, self._file, self._corners = keypoints, file, corners
        self._read = 0

    def read_rows(
        self, annotations: Sequence[Mapping[str, Any]], height: int, width: int, counts: SkipCounts
    ) -> list[dict[str, Any]]:
        """Reads the annotations of an image.

        Args:
          annotations: entries of "annotations".
          height: of the image, in pixels.
          width: of the image, in pixels.
          counts: counts the objects that were skipped and the values that were repaired.

        Returns:
          The fields of each object, see `segjax.data.records.stack_objects`.
        """
        rows = []
        for annotation in annotations:
            self._read += 1
            try:
                rows.append(self._read_object(annotation, height, width, counts))
            except UnusableError as error:
                counts.add_object(error.reason, str(error))
        return rows

    def _read_object(
        self, annotation: Mapping[str, Any], height: int, width: int, counts: SkipCounts
    ) -> dict[str, Any]:
        name = f"{self._file}, annotation {describe(annotation.get('id'))} of image "
        name += describe(annotation.get("image_id"))
        identity = parse_whole_number(annotation.get("category_id"))
        if identity not in self._categories:
            raise UnusableError(
                "unknown category id", f"{name}, category {describe(annotation.get('category_id'))}"
            )
        if self._corners:
            annotation = annotation | {"bbox": _to_coco(annotation.get("bbox"))}
        # Mask and box, of which one may be missing
        box_only = is_lone_box(annotation)
        if box_only:
            box = read_lone_box(annotation, height, width, name, counts)
            mask = fill_box(box, height, width)
            mask_box = compute_mask_box(mask)
            counts.add_change(BOX_ONLY, name)
        else:
            segmentation = annotation.get("segmentation")
            mask = decode_segmentation(segmentation, height, width, name, counts)
            if not mask.any():
                raise UnusableError("mask is empty", name)
            mask_box = compute_mask_box(mask)
            box = choose_box(annotation, mask_box, height, width, name, counts)
        row = {
            "id": self._read_id(annotation, name, counts),
            "box": mask_box,
            "category": self._categories[identity],
            "crowd": _read_crowd(annotation, name, counts),
            "area": _read_area(annotation, box if box_only else mask, name, counts),
            "rle": encode_mask(mask),
            "annotated_box": box,
            "box_only": box_only,
        }
        if self._keypoints:
            row["keypoints"] = read_keypoints(annotation, self._keypoints, name, counts)
        return row

    def _read_id(self, annotation: Mapping[str, Any], name: str, counts: SkipCounts) -> int:
        """Returns the id of an annotation, or its number if it has none that is an integer."""
        identity = parse_whole_number(annotation.get("id"))
        if identity is None:
            reason = "annotation id is missing or not a whole number: it is numbered"
            counts.add_change(reason, f"{name}, now {self._read}")
        return self._read if identity is None else identity


def _read_crowd(annotation: Mapping[str, Any], name: str, counts: SkipCounts) -> bool:
    """Returns the crowd flag, False if it is missing or unreadable."""
    value = annotation.get("iscrowd")
    if value is None:
        return False
    crowd = parse_flag(value)
    if crowd is None:
        counts.add_change("iscrowd is neither 0 nor 1: taken as 0", f"{name}, {describe(value)}")
    return bool(crowd)


def _read_area(
    annotation: Mapping[str, Any], shape: np.ndarray, name: str, counts: SkipCounts
) -> float:
    """Returns the annotated area in pixels, or that of the object's shape.

    COCO's AP sorts objects into small, medium and large by the annotated (polygon) area.

    Args:
      annotation: an entry of "annotations".
      shape: mask bool [H, W], or box [4] of an object without a mask.
      name: of the annotation in the report.
      counts: counts the areas that are malformed.
    """
    value = annotation.get("area")
    area = parse_number(value)
    if area is not None and 0 < area < _LARGEST_AREA:
        return area
    if value is not None:
        counts.add_change(
            "area is not a positive number: that of the object is used",
            f"{name}, area {describe(value)}",
        )
    return float(np.count_nonzero(shape) if shape.ndim == 2 else np.prod(shape[2:] - shape[:2]))


def _to_coco(bbox: Any) -> Any:
    """Converts corners to COCO's x, y, width, height. Anything malformed stays as it is."""
    numbers = parse_numbers(bbox, 4)
    if numbers is None:
        return bbox
    x1, y1, x2, y2 = numbers
    return [x1, y1, x2 - x1, y2 - y1]
