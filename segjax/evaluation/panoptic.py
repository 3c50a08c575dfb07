"""Panoptic quality (PQ, arXiv 1801.00868) of segmentations in COCO's panoptic format."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

VOID = 0
_MATCH = 0.5  # segments match if their IoU exceeds it
_IGNORED = 0.5  # a prediction with more of its area on void or crowds is not counted


class PanopticError(ValueError):
    """A segmentation whose image and list of segments disagree, or that names unknown things."""


@dataclasses.dataclass
class PanopticScores:
    """Sums over images, by category.

    Attributes:
      categories: id -> {"name", "isthing"}.
      iou: id -> sum of the IoUs of matched segments.
      tp: id -> matched segments.
      fp: id -> predicted segments without a match.
      fn: id -> segments of the ground truth without a match.
    """

    categories: Mapping[int, Mapping[str, Any]]
    iou: dict[int, float] = dataclasses.field(default_factory=dict)
    tp: dict[int, int] = dataclasses.field(default_factory=dict)
    fp: dict[int, int] = dataclasses.field(default_factory=dict)
    fn: dict[int, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for counts in (self.iou, self.tp, self.fp, self.fn):
            counts.update(dict.fromkeys(self.categories, 0))

    def add(
        self,
        prediction: np.ndarray,
        predicted: Sequence[Mapping[str, Any]],
        truth: np.ndarray,
        annotated: Sequence[Mapping[str, Any]],
        where: str = "image",
    ) -> None:
        """Adds an image.

        Args:
          prediction: int [H, W], id of the segment of each pixel, 0 for none (see `decode_ids`).
          predicted: "id" and "category_id" of each segment.
          truth: int [H, W].
          annotated: "id", "category_id" and perhaps "iscrowd" of each segment.
          where: name of the image for messages.

        Raises:
          PanopticError: images of different sizes, segments without a pixel or pixels without a
            segment, a segment that is listed twice, or an unknown category.
        """
        if prediction.shape != truth.shape:
            raise PanopticError(
                f"{where}: the prediction is {prediction.shape}, the ground truth {truth.shape}"
            )
        own = self._check(prediction, predicted, f"prediction of {where}")
        given = self._check(truth, annotated, f"ground truth of {where}")
        crowds = {number for number, row in given.items() if row.get("iscrowd")}
        areas, truth_areas = count_pixels(prediction), count_pixels(truth)
        shared = count_pairs(truth, prediction)

        # Matches: at most one per segment, because the IoU exceeds 1/2
        matched, found = set(), set()
        for (g, p), overlap in shared.items():
            if g not in given or p not in own or g in crowds:
                continue
            category = given[g]["category_id"]
            if category != own[p]["category_id"]:
                continue
            union = areas[p] + truth_areas[g] - overlap - shared.get((VOID, p), 0)
            if overlap / union > _MATCH:
                self.iou[category] += overlap / union
                self.tp[category] += 1
                matched.add(p)
                found.add(g)
        # Segments of the ground truth that nothing matches
        for g, row in given.items():
            if g not in found and g not in crowds:
                self.fn[row["category_id"]] += 1
        # Predictions that match nothing, unless they lie on void or on a crowd of their category
        for p, row in own.items():
            if p in matched:
                continue
            ignored = shared.get((VOID, p), 0) + sum(
                shared.get((g, p), 0)
                for g in crowds
                if given[g]["category_id"] == row["category_id"]
            )
            if ignored / areas[p] <= _IGNORED:
                self.fp[row["category_id"]] += 1

    def summarize(self) -> dict[str, Any]:
        """Returns {"All", "Things", "Stuff"}: {"PQ", "SQ", "RQ", "n"}, and "per_class" by id.

        PQ = SQ * RQ for each category; groups are means over their n categories that occur. A
        group without any has n 0 and scores of 0.
        """
        per_class = {}
        for number, category in self.categories.items():
            tp, fp, fn = self.tp[number], self.fp[number], self.fn[number]
            if not tp + fp + fn:
                continue
            total = tp + 0.5 * fp + 0.5 * fn
            per_class[number] = {
                "name": category.get("name", str(number)),
                "PQ": self.iou[number] / total,
                "SQ": self.iou[number] / tp if tp else 0.0,
                "RQ": tp / total,
            }
        groups: dict[str, Any] = {}
        for group, wanted in (("All", (True, False)), ("Things", (True,)), ("Stuff", (False,))):
            rows = [
                row
                for number, row in per_class.items()
                if bool(self.categories[number].get("isthing", 1)) in wanted
            ]
            means = {
                key: float(np.mean([row[key] for row in rows])) if rows else 0.0
                for key in ("PQ", "SQ", "RQ")
            }
            groups[group] = means | {"n": len(rows)}
        return groups | {"per_class": {str(number): row for number, row in per_class.items()}}

    def _check(
        self, ids: np.ndarray, segments: Sequence[Mapping[str, Any]], where: str
    ) -> dict[int, Mapping[str, Any]]:
        """Returns the segments by id."""
        listed: dict[int, Mapping[str, Any]] = {}
        for row in segments:
            number, category = row.get("id"), row.get("category_id")
            if number in listed:
                raise PanopticError(f"{where} lists the segment {number} twice")
            if category not in self.categories:
                raise PanopticError(
                    f"{where}: segment {number} has the unknown category {category!r}"
                )
            listed[number] = row
        there = set(np.unique(ids).tolist()) - {VOID}
        if unlisted := sorted(there - listed.keys()):
            raise PanopticError(
                f"{where}: {len(unlisted)} segments of the PNG are not in the JSON, such as "
                f"{unlisted[0]}"
            )
        if absent := sorted(listed.keys() - there):
            raise PanopticError(
                f"{where}: {len(absent)} segments of the JSON have no pixel in the PNG, such as "
                f"{absent[0]}"
            )
        return listed


def decode_ids(pixels: np.ndarray) -> np.ndarray:
    """Returns the ids of a panoptic PNG: R + 256 G + 65536 B, 0 is void.

    Args:
      pixels: uint8 [H, W, 3].

    Returns:
      int64 [H, W].
    """
    return pixels.astype(np.int64) @ np.array([1, 256, 65536])


def encode_ids(ids: np.ndarray) -> np.ndarray:
    """Returns the pixels of a panoptic PNG, uint8 [H, W, 3], of ids below 2^24."""
    if ids.size and not 0 <= ids.min() <= ids.max() < 1 << 24:
        raise ValueError(f"ids are {ids.min()} to {ids.max()}; expected 0 to {(1 << 24) - 1}")
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)


def count_pixels(ids: np.ndarray) -> dict[int, int]:
    """Returns id -> number of pixels."""
    numbers, counts = np.unique(ids, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def count_pairs(one: np.ndarray, other: np.ndarray) -> dict[tuple[int, int], int]:
    """Returns (id in one, id in the other) -> number of pixels that have both."""
    pairs, counts = np.unique(
        np.stack([one.reshape(-1), other.reshape(-1)]), axis=1, return_counts=True
    )
    return {(int(a), int(b)): int(n) for (a, b), n in zip(pairs.T, counts, strict=True)}
