"""What interactive evaluation found: one row a mask, and the numbers the field quotes from it."""

import dataclasses
import os
import pathlib

import numpy as np

from segjax.files import write_json

REPORTED_POINTS = (1, 2, 3, 5, 9)
NOC_TARGETS = (0.85, 0.90)
# COCO calls a mask below 32**2 px small and one above 96**2 large, in pictures of about 640 x 480 px. As fractions of
# the picture the same limits serve any canvas.
SMALL_BELOW = 32**2 / (640 * 480)
LARGE_FROM = 96**2 / (640 * 480)
_CALIBRATION_BINS = 10


@dataclasses.dataclass(frozen=True)
class InteractiveScores:
    """Scores of every evaluated object, and the first batch's rounds for pictures.

    Attributes:
      iou: float32 [objects, num_points], IoU with the truth after each click.
      predicted_iou: float32 [objects, num_points], the IoU head's opinion of the same answers.
      oracle_iou: float32 [objects], the best of the three masks of the first click, by true IoU.
      area_fraction: float32 [objects], area of the truth over the area of its image.
      images: how many images had an object.
      pictures: arrays for `viz.interaction_sheet`, or empty (see `interactive.play_rounds`).
    """

    iou: np.ndarray
    predicted_iou: np.ndarray
    oracle_iou: np.ndarray
    area_fraction: np.ndarray
    images: int
    pictures: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """Averages over masks (each object counts once), by name.

        `iou@k` after k clicks, `iou@k/small|medium|large` by size (left out where there is no such object), `oracle@1`,
        `noc@85` and `noc@90`: mean number of the first click that reaches the IoU, the cap where none does, and
        `failures@85`, `failures@90`: how many never did; `iou_head_error`: mean |predicted - true| IoU over all
        answers, `iou_head_calibration`: expected calibration error, the difference of the two means within tenths of
        predicted IoU, weighted by their counts; `objects` (also by size), `images`, `max_points`.
        """
        total = self.iou.shape[1]
        reported = [k for k in REPORTED_POINTS if k <= total]
        reported += [] if total in reported else [total]
        numbers = {f"iou@{k}": float(self.iou[:, k - 1].mean()) for k in reported}
        numbers["oracle@1"] = float(self.oracle_iou.mean())
        for target in NOC_TARGETS:
            clicks, failed = number_of_clicks(self.iou, target)
            numbers[f"noc@{target * 100:.0f}"] = float(clicks.mean())
            numbers[f"failures@{target * 100:.0f}"] = float(failed.sum())
        for name, members in self._by_size().items():
            numbers[f"objects/{name}"] = float(members.sum())
            if members.any():
                numbers |= {
                    f"iou@{k}/{name}": float(self.iou[members, k - 1].mean()) for k in reported
                }
        numbers["iou_head_error"] = float(np.abs(self.predicted_iou - self.iou).mean())
        numbers["iou_head_calibration"] = calibration_error(self.predicted_iou, self.iou)
        return numbers | {
            "objects": float(len(self.iou)),
            "images": float(self.images),
            "max_points": float(total),
        }

    def save(
        self, directory: str | os.PathLike, untrained: "InteractiveScores | None" = None
    ) -> pathlib.Path:
        """Writes `interactive.json` into the directory (made if missing) and returns its path.

        It holds {"trained": numbers}, and under "untrained" those of the model before training where they are given.
        """
        path = pathlib.Path(directory) / "interactive.json"
        named = {"trained": self, "untrained": untrained}
        write_json(
            path, {name: scores.numbers() for name, scores in named.items() if scores is not None}
        )
        return path

    def _by_size(self) -> dict[str, np.ndarray]:
        small, large = self.area_fraction < SMALL_BELOW, self.area_fraction >= LARGE_FROM
        return {"small": small, "medium": ~small & ~large, "large": large}


def number_of_clicks(iou: np.ndarray, target: float) -> tuple[np.ndarray, np.ndarray]:
    """NoC: the first click whose IoU reaches the target (RITM).

    Args:
      iou: float [objects, num_points].
      target: IoU to reach.

    Returns:
      clicks int [objects], num_points where the target is never reached; failed bool [objects], True there.
    """
    reached = iou >= target
    failed = ~reached.any(axis=1)
    return np.where(failed, iou.shape[1], reached.argmax(axis=1) + 1), failed


def calibration_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Expected calibration error of predicted IoUs, over tenths of [0, 1], each weighted by its count."""
    predicted, true = predicted.ravel().astype(np.float64), true.ravel().astype(np.float64)
    bins = np.clip((predicted * _CALIBRATION_BINS).astype(int), 0, _CALIBRATION_BINS - 1)
    gap = np.bincount(bins, predicted - true, _CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(predicted))
