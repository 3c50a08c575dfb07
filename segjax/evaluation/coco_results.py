"""Detections in COCO's results format, collected image by image and over processes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from segjax.evaluation.coco_format import flatten_keypoints
from segjax.files import write_json
from segjax.masks import encode_mask


class CocoResults:
    """Detections in COCO's results format.

    Detections are stored by the index of their image in the ground truth. The order of batches,
    padding (index -1) and repeated images (in the last batch of several processes) change nothing.

    Args:
      ground_truth: content of a COCO annotation file, from `build_coco_ground_truth` or from disk.
        The classes 0..K-1 are its category ids in increasing order.
    """

    def __init__(self, ground_truth: Mapping[str, Any]):
        self._images = ground_truth["images"]
        self._categories = sorted(category["id"] for category in ground_truth["categories"])
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
        """Adds the D detections of an image, in pixels of the original image.

        Args:
          index: index of the image in the ground truth. -1 is padding.
          boxes: float [D, 4], x1 y1 x2 y2.
          scores: float [D].
          categories: int [D], 0..K-1.
          masks: bool [D, H, W], or D compressed run-length encodings as str.
          keypoints: float [D, J, 2 or 3], continuous x, y as in records, and perhaps a score
            (default 1).

        Raises:
          ValueError: An index, category or mask that does not fit the ground truth, or a score that
            is not finite.
        """
        if index < 0 or index in self._rows:
            return
        if index >= len(self._images):
            raise ValueError(f"image {index} of {len(self._images)} in the ground truth")
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        scores = np.asarray(scores, np.float64).reshape(-1)
        categories = np.asarray(categories, np.int64).reshape(-1)
        self._check(index, boxes, scores, categories, masks, keypoints)
        # COCO's format: category ids of the raw files, boxes as x, y, width, height
        rows = []
        for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            entry = {
                "image_id": self._images[index]["id"],
                "category_id": self._categories[categories[row]],
            }
            entry |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": float(scores[row])}
            if masks is not None:
                entry["segmentation"] = self._encode(index, masks[row])
            if keypoints is not None:
                entry["keypoints"] = flatten_keypoints(np.asarray(keypoints[row], np.float64))
            rows.append(entry)
        self._rows[int(index)] = rows

    def rows(self) -> list[dict[str, Any]]:
        """Returns every detection in the format of pycocotools' `loadRes`, in image order."""
        return [dict(entry) for index in sorted(self._rows) for entry in self._rows[index]]

    def count_images(self) -> int:
        """Returns the number of images that were added, with or without detections."""
        return len(self._rows)

    def merge(self, other: CocoResults) -> None:
        """Adds the images of other results that are missing here."""
        self._rows = other._rows | self._rows

    def gather(self) -> CocoResults:
        """Returns the results of all processes, in every process. Every process must call it."""
        # Several processes may hold the same image with the same detections.
        merged = CocoResults(
            {"images": self._images, "categories": [{"id": each} for each in self._categories]}
        )
        for text in allgather_text(json.dumps(list(self._rows.items()))):
            merged._rows = {index: rows for index, rows in json.loads(text)} | merged._rows
        return merged

    def write(self, path: str | os.PathLike) -> None:
        """Writes a COCO results file."""
        write_json(path, self.rows(), indent=None)

    def _check(self, index, boxes, scores, categories, masks, keypoints) -> None:
        """Raises ValueError for arrays of different lengths and for invalid values."""
        optional = (len(x) for x in (masks, keypoints) if x is not None)
        counts = {len(boxes), len(scores), len(categories), *optional}
        if len(counts) > 1:
            raise ValueError(
                f"image {index}: boxes, scores, categories, masks and keypoints differ in number: "
                f"{counts}"
            )
        if len(boxes) and not (categories.min() >= 0 and categories.max() < len(self._categories)):
            raise ValueError(
                f"image {index}: categories {categories.min()} to {categories.max()}; expected 0 "
                f"to {len(self._categories) - 1}, without the background"
            )
        if not np.isfinite(boxes).all() or not np.isfinite(scores).all():
            raise ValueError(f"image {index}: a box or a score is not finite")

    def _encode(self, index: int, mask: str | np.ndarray) -> dict[str, Any]:
        """Returns the run-length encoding of a mask of an image."""
        size = [self._images[index]["height"], self._images[index]["width"]]
        if isinstance(mask, str):
            return {"size": size, "counts": mask}
        if list(np.shape(mask)) != size:
            raise ValueError(
                f"image {index}: a mask of {np.shape(mask)} for an image of {tuple(size)} pixels"
            )
        return {"size": size, "counts": encode_mask(mask)}


def allgather_text(text: str) -> list[str]:
    """Returns the text of each process, padded for the transfer."""
    mine = np.frombuffer(text.encode(), np.uint8)
    # Arrays of one length on all processes: exchange the lengths first.
    lengths = np.atleast_1d(multihost_utils.process_allgather(np.int32(len(mine))))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(mine)] = mine
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [
        row[:length].tobytes().decode()
        for row, length in zip(everyone, lengths.tolist(), strict=True)
    ]
