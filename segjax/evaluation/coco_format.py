"""Ground truth in COCO's annotation format, from records, without files in between.

Objects have the category ids of the raw files, which may have gaps. Images have the ids of the
records, as numbers if all ids are numbers. In COCO's formats a box is x, y, width, height. A
keypoint is the index of its pixel, which is 0.5 less than the continuous coordinates of records.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def build_coco_ground_truth(
    records: Iterable[Mapping[str, Any]],
    categories: Sequence[str],
    category_ids: Sequence[int] | None = None,
    *,
    keypoint_names: Sequence[str] = (),
    frequencies: Sequence[str] = (),
) -> dict[str, Any]:
    """Builds the content of a COCO annotation file from records. Images are not decoded.

    Boxes are the annotators' own if the records have them, as COCO evaluates, and those of the
    masks otherwise. An annotation of an object without a mask has "box_only": 1. Objects get new
    ids from 1: ids of label maps repeat, and pycocotools does not accept 0.

    Args:
      records: see `segjax.data.records`, in the order that the indices of `CocoResults` count.
      categories: names of the classes 0..K-1.
      category_ids: ids of the classes in the raw files, increasing. Default: 0..K-1.
      keypoint_names: names of the keypoints of the records.
      frequencies: "r", "c" or "f" of each class, for LVIS.

    Returns:
      {"images": ..., "annotations": ..., "categories": ...}.

    Raises:
      ValueError: Ids or images that occur twice, or ids that do not increase.
    """
    ids = list(range(len(categories)) if category_ids is None else category_ids)
    if len(ids) != len(categories) or ids != sorted(set(ids)):
        raise ValueError(f"{len(categories)} categories need as many ids, increasing; got {ids}")

    # Images, and the annotations of each
    images, annotations, number = [], [], itertools.count(1)
    for record in records:
        image = {
            "id": record["image_id"],
            "height": int(record["height"]),
            "width": int(record["width"]),
        }
        for field in ("neg_categories", "not_exhaustive_categories"):
            if field in record:
                name = field.replace("categories", "category_ids")
                image[name] = [ids[index] for index in record[field]]
        images.append(image)
        rows = range(len(record["objects"]["rle"]))
        annotations.append([_build_annotation(record, row, ids, next(number)) for row in rows])

    # Whether image ids are numbers is known only now.
    image_ids = _convert_image_ids([image["id"] for image in images])
    for image, rows, image_id in zip(images, annotations, image_ids, strict=True):
        image["id"] = image_id
        for row in rows:
            row["image_id"] = image_id

    # Categories
    listed = [
        {"id": identity, "name": name} for identity, name in zip(ids, categories, strict=True)
    ]
    for category, frequency in zip(listed, frequencies, strict=False):
        category["frequency"] = frequency
    for category in listed if keypoint_names else ():
        category["keypoints"] = list(keypoint_names)
    return {
        "images": images,
        "annotations": list(itertools.chain(*annotations)),
        "categories": listed,
    }


def flatten_keypoints(keypoints: np.ndarray) -> list[float]:
    """Converts keypoints to COCO's list x, y, v, x, y, v, ...

    Args:
      keypoints: float [J, 2 or 3], continuous x, y and perhaps a visibility or score (default 1).
    """
    third = keypoints[:, 2:] if keypoints.shape[1] == 3 else np.ones((len(keypoints), 1))
    return np.concatenate([keypoints[:, :2] - 0.5, third], axis=1).reshape(-1).tolist()


def _build_annotation(
    record: Mapping[str, Any], row: int, ids: Sequence[int], number: int
) -> dict[str, Any]:
    """Builds the annotation of one object of a record."""
    objects = record["objects"]
    x1, y1, x2, y2 = objects.get("annotated_box", objects["box"])[row].astype(np.float64).tolist()
    annotation = {
        "id": number,
        "category_id": ids[objects["category"][row]],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(objects["area"][row]),
        "iscrowd": int(objects["crowd"][row]),
        "segmentation": {
            "size": [int(record["height"]), int(record["width"])],
            "counts": objects["rle"][row],
        },
    }
    if "box_only" in objects and objects["box_only"][row]:
        annotation["box_only"] = 1
    if "keypoints" in objects:
        keypoints = np.asarray(objects["keypoints"][row], np.float64)
        # COCO writes 0, 0, 0 for keypoints without a label.
        labeled = np.where(keypoints[:, 2:] > 0, keypoints, (0.5, 0.5, 0))
        annotation["keypoints"] = flatten_keypoints(labeled)
        annotation["num_keypoints"] = int((keypoints[:, 2] > 0).sum())
    return annotation


def _convert_image_ids(names: Sequence[str]) -> list[int | str]:
    """Returns the ids as numbers if all of them are numbers, and as text otherwise."""
    if len(set(names)) < len(names):
        groups = itertools.groupby(sorted(names))
        twice = next(name for name, group in groups if len(list(group)) > 1)
        raise ValueError(f"image id {twice!r} occurs twice in the records")
    numbers = all(name.isdecimal() and str(int(name)) == name for name in names)
    return [int(name) for name in names] if numbers else list(names)
