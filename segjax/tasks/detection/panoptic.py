"""Panoptic quality of a detector with a semantic branch, during evaluation."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.records import UNKNOWN_STUFF
from segjax.evaluation.coco_results import allgather_text
from segjax.evaluation.panoptic import PanopticScores
from segjax.inference.detection.postprocess import ImageDetections
from segjax.inference.perception.panoptic import STUFF_SHARE, merge_panoptic
from segjax.masks import decode_mask


class PanopticEvaluator:
    """Merges detections and stuff of each image, and scores them against the records.

    Category ids are 1..K for things, in the order of their classes, and then K + 1..K + S for
    stuff.

    Args:
      things: names of the classes 0..K-1 of things.
      stuff: names of the classes 1..S of stuff.
    """

    def __init__(self, things: Sequence[str], stuff: Sequence[str]):
        names = [(name, 1) for name in things] + [(name, 0) for name in stuff]
        self._first = len(things)  # stuff s has the category first + s
        self._categories = {
            number: {"name": name, "isthing": isthing}
            for number, (name, isthing) in enumerate(names, start=1)
        }
        self._images: dict[int, PanopticScores] = {}

    def add(
        self,
        index: int,
        record: Mapping[str, Any],
        detections: ImageDetections,
        categories: Sequence[int],
    ) -> None:
        """Adds an image. Images that were added before change nothing.

        Args:
          index: index of the image in the split.
          record: its record, with ``stuff``.
          detections: its detections, with masks and stuff.
          categories: class 0..K-1 of each detection.
        """
        if index in self._images:
            return
        # Merge detections and stuff
        hw = detections.hw
        prediction, predicted = merge_panoptic(
            [decode_mask(mask, *hw) for mask in detections.masks],
            detections.scores,
            [category + 1 for category in categories],
            self._first + detections.stuff.astype(np.int64),
            range(self._first + 1, len(self._categories) + 1),
            smallest_stuff=max(1, round(STUFF_SHARE * hw[0] * hw[1])),
        )
        # Score the image
        self._images[index] = PanopticScores(self._categories)
        self._images[index].add(
            prediction, predicted, *self._read_ground_truth(record), record["image_id"]
        )

    def compute_scores(self) -> dict[str, float]:
        """Computes the scores over the images of all processes, which all must call it.

        Returns:
          "panoptic/PQ", "panoptic/SQ" and "panoptic/RQ" of all categories, and the same of things
          and of stuff, such as "panoptic/PQ_stuff".
        """
        fields = ("iou", "tp", "fp", "fn")
        # Images of all processes
        mine = [
            (index, [list(getattr(scores, field).values()) for field in fields])
            for index, scores in self._images.items()
        ]
        images = {}
        for text in allgather_text(json.dumps(mine)):
            images |= dict(json.loads(text))
        # Sums over images
        sums = np.sum(list(images.values()), axis=0)
        rows = (dict(zip(self._categories, row.tolist(), strict=True)) for row in sums)
        total = PanopticScores(self._categories)
        for field, row in zip(fields, rows, strict=True):
            getattr(total, field).update(row)
        groups = total.summarize()
        suffixes = {"All": "", "Things": "_things", "Stuff": "_stuff"}
        return {
            f"panoptic/{score}{suffix}": groups[group][score]
            for group, suffix in suffixes.items()
            for score in ("PQ", "SQ", "RQ")
        }

    def _read_ground_truth(
        self, record: Mapping[str, Any]
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Returns the ids of the segments [H, W] of a record, and the rows of the segments."""
        objects, stuff = record["objects"], record["stuff"]
        ids, rows = np.zeros(stuff.shape, np.int64), []
        # Things, then stuff
        paint = []
        for rle, category, crowd in zip(
            objects["rle"], objects["category"], objects["crowd"], strict=True
        ):
            paint.append((decode_mask(rle, *stuff.shape), int(category) + 1, int(crowd)))
        for category in np.unique(stuff[(stuff > 0) & (stuff != UNKNOWN_STUFF)]).tolist():
            paint.append((stuff == category, self._first + category, 0))
        for number, (mask, category, crowd) in enumerate(paint, start=1):
            ids[mask & (ids == 0)] = number
            rows.append({"id": number, "category_id": category, "iscrowd": crowd})
        # Segments that others cover have no pixels.
        visible = set(np.unique(ids).tolist())
        return ids, [row for row in rows if row["id"] in visible]
