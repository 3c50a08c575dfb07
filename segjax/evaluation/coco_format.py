"""Ground truth and answers in COCO's JSON formats, from records and detections, with no files in between.

Objects are listed under the raw files' own category ids, which may have gaps; pictures under the record's id, as a
number where all ids are numbers. In COCO's formats a box is x, y, width, height, and a keypoint lies at the index of
its pixel, half a pixel less than in records.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from segjax.files import write_json
from segjax.masks import encode_mask


def coco_truth(
    records: Iterable[Mapping[str, Any]],
    categories: Sequence[str],
    category_ids: Sequence[int] | None = None,
    *,
    keypoint_names: Sequence[str] = (),
    frequencies: Sequence[str] = (),
) -> dict[str, Any]:
    """The ground truth of some records as the content of a COCO annotation file; pictures are not decoded.

    Boxes are the annotators' own where the records have them, as COCO measures; else those of the masks. Area and crowd
    flags are the records'. Objects are numbered anew from 1: ids of label maps repeat, and to pycocotools 0 is no id.

    Args:
      records: see `segjax.data.records`; in the order in which `CocoResults` counts them.
      categories, category_ids: name and raw id (by default the number) of each class 0..K-1.
      keypoint_names: of the keypoints that the records have.
      frequencies: "r", "c" or "f" of each class, for LVIS.

    Raises:
      ValueError: ids or pictures that occur twice, or categories out of order.
    """
    ids = list(range(len(categories)) if category_ids is None else category_ids)
    if len(ids) != len(categories) or ids != sorted(set(ids)):
        raise ValueError(f"{len(categories)} categories need as many ids, increasing; got {ids}")
    images, annotations, number = [], [], itertools.count(1)
    for record in records:
        image = {
            "id": record["image_id"],
            "height": int(record["height"]),
            "width": int(record["width"]),
        }
        for field in ("neg_categories", "not_exhaustive_categories"):
            if field in record:
                image[field.replace("categories", "category_ids")] = [
                    ids[index] for index in record[field]
                ]
        images.append(image)
        annotations.append(
            [
                _annotation(record, row, ids, next(number))
                for row in range(len(record["objects"]["rle"]))
            ]
        )
    names = _image_ids([image["id"] for image in images])
    for image, rows, name in zip(images, annotations, names, strict=True):
        image["id"] = name
        for row in rows:
            row["image_id"] = name
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


class CocoResults:
    """Detections, gathered picture by picture, as COCO's results format has them.

    A picture's answers are kept under its place in the truth, so the order of batches, padding (index -1) and pictures
    that come twice, as when the last batch of several processes is filled up, change nothing.

    Args:
      truth: content of a COCO annotation file, `coco_truth`'s or one that was read; the classes 0..K-1 are its category
        ids in increasing order.
    """

    def __init__(self, truth: Mapping[str, Any]):
        self._images = truth["images"]
        self._categories = sorted(category["id"] for category in truth["categories"])
        self._rows: dict[int, list[dict[str, Any]]] = {}

    def add(
        self,
        index: int,
        boxes: np.ndarray,
        scores: np.ndarray,
        categories: np.ndarray,
        masks: Sequence[str | np.ndarray] | np.ndarray | None = None,
        keypoints: np.ndarray | None = None,
    ) -> None:
        """The D detections of a picture, in pixels of the original one.

        Args:
          index: of the picture in the truth, the loader's `index`; -1 is padding.
          boxes: [D, 4], x1 y1 x2 y2. scores: [D]. categories: int [D], 0..K-1.
          masks: bool [D, H, W], or COCO's compressed run lengths as str.
          keypoints: [D, K, 2 or 3], continuous x, y as in records, and perhaps a score; 1 is written without.

        Raises:
          ValueError: an index, category or mask that does not fit the truth, or a score that is not a number.
        """
        if index < 0 or index in self._rows:
            return
        if index >= len(self._images):
            raise ValueError(f"picture {index} of {len(self._images)} in the truth")
        boxes, scores = (
            np.asarray(boxes, np.float64).reshape(-1, 4),
            np.asarray(scores, np.float64).reshape(-1),
        )
        categories = np.asarray(categories, np.int64).reshape(-1)
        counts = {
            len(boxes),
            len(scores),
            len(categories),
            *(len(x) for x in (masks, keypoints) if x is not None),
        }
        if len(counts) > 1:
            raise ValueError(
                f"picture {index}: boxes, scores, categories, masks and keypoints differ in number: {counts}"
            )
        if len(boxes) and not (categories.min() >= 0 and categories.max() < len(self._categories)):
            raise ValueError(
                f"picture {index}: categories {categories.min()} to {categories.max()}; expected 0 to "
                f"{len(self._categories) - 1}, without the background"
            )
        if not np.isfinite(boxes).all() or not np.isfinite(scores).all():
            raise ValueError(f"picture {index}: a box or a score is not finite")
        rows = []
        for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            entry = {
                "image_id": self._images[index]["id"],
                "category_id": self._categories[categories[row]],
            }
            entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(scores[row])}
            if masks is not None:
                entry["segmentation"] = self._run_lengths(index, masks[row])
            if keypoints is not None:
                entry["keypoints"] = _flat_keypoints(np.asarray(keypoints[row], np.float64))
            rows.append(entry)
        self._rows[int(index)] = rows

    def rows(self) -> list[dict[str, Any]]:
        """Every detection, as pycocotools' `loadRes` takes them, in the order of the pictures."""
        return [dict(entry) for index in sorted(self._rows) for entry in self._rows[index]]

    def pictures(self) -> int:
        """How many pictures there are answers of, no detection being an answer too."""
        return len(self._rows)

    def merge(self, other: CocoResults) -> None:
        """Takes the pictures of another that are not here yet."""
        self._rows = other._rows | self._rows

    def gather(self) -> CocoResults:
        """The results of all processes, in every process; each must call it."""
        whole = CocoResults(
            {"images": self._images, "categories": [{"id": each} for each in self._categories]}
        )
        for text in _texts_of_all(json.dumps(list(self._rows.items()))):
            whole._rows = {index: rows for index, rows in json.loads(text)} | whole._rows
        return whole

    def write(self, path: str | os.PathLike) -> None:
        """Writes COCO's results file."""
        write_json(path, self.rows(), indent=None)

    def _run_lengths(self, index: int, mask: str | np.ndarray) -> dict[str, Any]:
        size = [self._images[index]["height"], self._images[index]["width"]]
        if isinstance(mask, str):
            return {"size": size, "counts": mask}
        if list(np.shape(mask)) != size:
            raise ValueError(
                f"picture {index}: a mask of {np.shape(mask)} for a picture of {tuple(size)} pixels"
            )
        return {"size": size, "counts": encode_mask(mask)}


def _annotation(
    record: Mapping[str, Any], row: int, ids: Sequence[int], number: int
) -> dict[str, Any]:
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
    if "keypoints" in objects:
        keypoints = np.asarray(objects["keypoints"][row], np.float64)
        annotation["keypoints"] = _flat_keypoints(
            np.where(keypoints[:, 2:] > 0, keypoints, (0.5, 0.5, 0))
        )
        annotation["num_keypoints"] = int((keypoints[:, 2] > 0).sum())
    return annotation


def _flat_keypoints(keypoints: np.ndarray) -> list[float]:
    """COCO's list x, y, v, x, y, v, ... of keypoints [K, 2 or 3]."""
    third = keypoints[:, 2:] if keypoints.shape[1] == 3 else np.ones((len(keypoints), 1))
    return np.concatenate([keypoints[:, :2] - 0.5, third], axis=1).reshape(-1).tolist()


def _image_ids(names: Sequence[str]) -> list[int | str]:
    if len(set(names)) < len(names):
        twice = next(
            name for name, group in itertools.groupby(sorted(names)) if len(list(group)) > 1
        )
        raise ValueError(f"image id {twice!r} occurs twice in the records")
    numbers = all(name.isdecimal() and str(int(name)) == name for name in names)
    return [int(name) for name in names] if numbers else list(names)


def _texts_of_all(text: str) -> list[str]:
    """This text of each process."""
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = np.atleast_1d(multihost_utils.process_allgather(np.int32(len(mine))))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(mine)] = mine
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [
        row[:length].tobytes().decode()
        for row, length in zip(everyone, lengths.tolist(), strict=True)
    ]
