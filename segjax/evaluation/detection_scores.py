"""Scores of a detector: COCO's numbers of every kind, per class, and the confusion matrix."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.evaluation.coco import CocoScores
from segjax.evaluation.coco_results import CocoResults
from segjax.evaluation.confusion import compute_confusion_matrix
from segjax.files import write_json

LOGGED = ("AP", "AP50", "AP75")


@dataclasses.dataclass(frozen=True)
class DetectionScores:
    """Scores of one evaluation.

    Attributes:
      kinds: COCO scores by kind, such as "bbox".
      shares: further numbers by name, such as "detections_full".
      ground_truth: content of a COCO annotation file, see `build_coco_ground_truth`.
      results: the detections.
      sheet: uint8 [H, W, 3], images with ground truth beside detections, or None.
    """

    kinds: Mapping[str, CocoScores]
    shares: Mapping[str, float]
    ground_truth: Mapping[str, Any]
    results: CocoResults
    sheet: np.ndarray | None = None

    def summarize_for_log(self) -> dict[str, float]:
        """Returns AP, AP50 and AP75 of each kind, as "bbox/AP", and the shares."""
        names = [f"{kind}/{name}" for kind in self.kinds for name in LOGGED]
        known = self.summarize()
        return {name: known[name] for name in (*names, *self.shares) if name in known}

    def summarize(self) -> dict[str, float]:
        """Returns all numbers of COCO, see `CocoScores.summarize`, and the shares."""
        numbers: dict[str, float] = {}
        for scores in self.kinds.values():
            numbers |= scores.summarize()
        return numbers | dict(self.shares)

    def per_class(self) -> dict[str, dict[str, float]]:
        """Returns, by kind, the AP of each class that has objects."""
        return {kind: scores.per_class() for kind, scores in self.kinds.items()}

    def confusion(self, min_score: float) -> tuple[np.ndarray, list[str]]:
        """Returns the confusion matrix and its class names, see `compute_confusion_matrix`."""
        return compute_confusion_matrix(self.ground_truth, self.results.rows(), min_score=min_score)

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Returns (recall, precision) at IoU 0.50 and 0.75 of each kind with objects, by name."""
        return {
            f"{kind}/AP{100 * threshold:.0f}": scores.curve(threshold)
            for kind, scores in self.kinds.items()
            if scores.per_class()
            for threshold in (0.5, 0.75)
        }

    def save(self, out: pathlib.Path) -> list[pathlib.Path]:
        """Writes truth.json (COCO annotations) and detections.json (COCO results).

        Args:
          out: folder.

        Returns:
          The two paths.
        """
        paths = [out / "truth.json", out / "detections.json"]
        write_json(paths[0], self.ground_truth, indent=None)
        self.results.write(paths[1])
        return paths


def format_table(scores: DetectionScores, *, max_classes: int = 20) -> str:
    """Formats COCO's table and the AP of the classes, in percent.

    Args:
      scores: the scores.
      max_classes: with more classes, only those of the lowest AP are listed.
    """
    # One row per kind
    names, known = list(_list_columns(scores)), scores.summarize()
    lines = [f"{'percent':<12}" + "".join(f"{name:>8}" for name in names)]
    for kind in scores.kinds:
        cells = (_format_percent(known.get(f"{kind}/{name}")) for name in names)
        lines.append(f"{kind:<12}" + "".join(cells))

    # One row per class
    by_class = scores.per_class()
    kind = "segm" if by_class.get("segm") else "bbox"
    count = len(by_class[kind])
    if count > 1:
        lowest = sorted(by_class[kind], key=by_class[kind].get)[:max_classes]
        which = "" if len(lowest) == count else f", the lowest {max_classes} of {count}"
        width = max(12, *(len(name) + 1 for name in lowest))
        of = {"segm": "masks", "bbox": "boxes"}[kind]
        lines += ["", f"AP of {of} by class{which}"]
        lines += [
            f"{name:<{width}}{_format_percent(by_class[kind][name])}"
            for name in by_class[kind]
            if name in lowest
        ]
    shares = (f"{name} {value:.4f}" for name, value in scores.shares.items())
    return "\n".join([*lines, "", *shares])


def _list_columns(scores: DetectionScores) -> Sequence[str]:
    """Lists the names of the numbers, of AR1, AR10, AR100 only the last."""
    fewer = {f"AR{n}" for kind in scores.kinds.values() for n in kind.max_detections[:-1]}
    names = (name.partition("/")[2] for kind in scores.kinds.values() for name in kind.summarize())
    return dict.fromkeys(name for name in names if name not in fewer)


def _format_percent(value: float | None) -> str:
    return f"{'-' if value is None else f'{100 * value:.1f}':>8}"
