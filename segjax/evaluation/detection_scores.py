"""What a detector's answers are worth: COCO's numbers of every kind, by class, and which class was taken for which."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.evaluation.coco import CocoScores
from segjax.evaluation.coco_format import CocoResults
from segjax.evaluation.confusion import detection_confusion
from segjax.files import write_json

SHORT = ("AP", "AP50", "AP75")


@dataclasses.dataclass(frozen=True)
class DetectionScores:
    """Of one evaluation.

    kinds: COCO's scores of "bbox" and what else was measured. shares: other numbers, such as "detections_full".
    truth, results: see `segjax.evaluation.coco_format`. sheet: uint8 [H, W, 3], pictures with the truth and the
    answers, or None.
    """

    kinds: Mapping[str, CocoScores]
    shares: Mapping[str, float]
    truth: Mapping[str, Any]
    results: CocoResults
    sheet: np.ndarray | None = None

    def short(self) -> dict[str, float]:
        """AP, AP50 and AP75 of each kind, as "bbox/AP", and the shares: what training logs."""
        names = [f"{kind}/{name}" for kind in self.kinds for name in SHORT]
        known = self.numbers()
        return {name: known[name] for name in (*names, *self.shares) if name in known}

    def numbers(self) -> dict[str, float]:
        """All of COCO's, see `CocoScores.numbers`, and the shares."""
        found: dict[str, float] = {}
        for scores in self.kinds.values():
            found |= scores.numbers()
        return found | dict(self.shares)

    def per_class(self) -> dict[str, dict[str, float]]:
        """By kind: AP of each class that has an object to find."""
        return {kind: scores.per_class() for kind, scores in self.kinds.items()}

    def confusion(self, min_score: float) -> tuple[np.ndarray, list[str]]:
        """Counts of (class given, class named), see `detection_confusion`."""
        return detection_confusion(self.truth, self.results.rows(), min_score=min_score)

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By name: (recall, precision) at an IoU of .50 and of .75, of each kind with an object to find."""
        return {
            f"{kind}/AP{100 * at:.0f}": scores.curve(at)
            for kind, scores in self.kinds.items()
            if scores.per_class()
            for at in (0.5, 0.75)
        }

    def save(self, out: pathlib.Path) -> list[pathlib.Path]:
        """Writes detections.json, COCO's format of results, and truth.json, what they were held against."""
        paths = [out / "truth.json", out / "detections.json"]
        write_json(paths[0], self.truth, indent=None)
        self.results.write(paths[1])
        return paths


def table(scores: DetectionScores, *, most: int = 20) -> str:
    """COCO's table and that of the classes, in percent, for people. most: with more classes, those of the lowest AP."""
    names, known = list(_columns(scores)), scores.numbers()
    lines = [f"{'percent':<12}" + "".join(f"{name:>8}" for name in names)]
    for kind in scores.kinds:
        lines.append(
            f"{kind:<12}" + "".join(_percent(known.get(f"{kind}/{name}")) for name in names)
        )
    by_class = scores.per_class()
    kind = "segm" if by_class.get("segm") else "bbox"
    if len(by_class[kind]) > 1:
        lowest = sorted(by_class[kind], key=by_class[kind].get)[:most]
        which = (
            ""
            if len(lowest) == len(by_class[kind])
            else f", the lowest {most} of {len(by_class[kind])}"
        )
        width = max(12, *(len(name) + 1 for name in lowest))
        lines += ["", f"AP by class{which}"]
        lines += [
            f"{name:<{width}}{_percent(by_class[kind][name])}"
            for name in by_class[kind]
            if name in lowest
        ]
    return "\n".join(
        [*lines, "", *(f"{name} {value:.4f}" for name, value in scores.shares.items())]
    )


def _columns(scores: DetectionScores) -> Sequence[str]:
    """The numbers' names, of all kinds, each once; of the recalls by a number of detections that with the most."""
    fewer = {f"AR{most}" for kind in scores.kinds.values() for most in kind.detections[:-1]}
    names = (name.partition("/")[2] for kind in scores.kinds.values() for name in kind.numbers())
    return dict.fromkeys(name for name in names if name not in fewer)


def _percent(value: float | None) -> str:
    return f"{'-' if value is None else f'{100 * value:.1f}':>8}"
