"""Scores of interactive segmentation: one row per object, and the numbers that papers report."""

import dataclasses
import os
import pathlib

import numpy as np

from segjax.files import write_json

REPORTED_POINTS = (1, 2, 3, 5, 9)
NOC_TARGETS = (0.85, 0.90)
# COCO calls a mask below 32**2 px small and one above 96**2 px large, in images of about 640 x 480
# px. As shares of the image, the same limits apply to any canvas.
SMALL_BELOW = 32**2 / (640 * 480)
LARGE_FROM = 96**2 / (640 * 480)
_CALIBRATION_BINS = 10


@dataclasses.dataclass(frozen=True)
class InteractiveScores:
    """Scores of every evaluated object.

    Attributes:
      iou: float32 [objects, num_points], IoU with the ground truth after each click.
      predicted_iou: float32 [objects, num_points], output of the IoU prediction head.
      oracle_iou: float32 [objects], best true IoU among the three masks of the first click.
      area_fraction: float32 [objects], area of the object over the area of its image.
      images: number of images with an object.
      rounds: recorded rounds for `viz.draw_interaction_sheet`, or empty. See `play_rounds`.
    """

    iou: np.ndarray
    predicted_iou: np.ndarray
    oracle_iou: np.ndarray
    area_fraction: np.ndarray
    images: int
    rounds: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def summarize(self) -> dict[str, float]:
        """Returns averages over objects, by name.

        "iou@k": mean IoU after k clicks. "iou@k/small", "/medium", "/large": the same by size,
        absent without such objects. "oracle@1": mean of `oracle_iou`.
        "noc@85", "noc@90": number of clicks (NoC), the mean number of the first click that reaches
        the IoU, or the cap. "failures@85", "failures@90": objects that never reach it.
        "iou_head_error": mean |predicted - true| IoU over all clicks. "iou_head_calibration":
        expected calibration error of the predicted IoU, see `calibration_error`.
        "objects" (also by size), "images", "max_points": counts.
        """
        total = self.iou.shape[1]
        reported = [k for k in REPORTED_POINTS if k <= total]
        reported += [] if total in reported else [total]

        # IoU after k clicks, and the number of clicks (NoC)
        numbers = {f"iou@{k}": float(self.iou[:, k - 1].mean()) for k in reported}
        numbers["oracle@1"] = float(self.oracle_iou.mean())
        for target in NOC_TARGETS:
            clicks, failed = number_of_clicks(self.iou, target)
            numbers[f"noc@{target * 100:.0f}"] = float(clicks.mean())
            numbers[f"failures@{target * 100:.0f}"] = float(failed.sum())

        # By object size
        for name, members in self._split_by_size().items():
            numbers[f"objects/{name}"] = float(members.sum())
            if members.any():
                numbers |= {
                    f"iou@{k}/{name}": float(self.iou[members, k - 1].mean()) for k in reported
                }

        # IoU prediction head
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
        """Writes interactive.json with the numbers under "trained" and "untrained".

        Args:
          directory: folder, created if missing.
          untrained: scores of the model before training, if they were measured.

        Returns:
          Path of the file.
        """
        path = pathlib.Path(directory) / "interactive.json"
        named = {"trained": self, "untrained": untrained}
        write_json(
            path, {name: scores.summarize() for name, scores in named.items() if scores is not None}
        )
        return path

    def _split_by_size(self) -> dict[str, np.ndarray]:
        """Returns the members of each size, bool [objects]."""
        small, large = self.area_fraction < SMALL_BELOW, self.area_fraction >= LARGE_FROM
        return {"small": small, "medium": ~small & ~large, "large": large}


def number_of_clicks(iou: np.ndarray, target: float) -> tuple[np.ndarray, np.ndarray]:
    """Computes the number of clicks (NoC): the first click whose IoU reaches the target (RITM).

    Args:
      iou: float [objects, num_points].
      target: IoU to reach.

    Returns:
      clicks: int [objects], num_points if the target is never reached.
      failed: bool [objects], True if the target is never reached.

    Example:
      >>> clicks, failed = number_of_clicks(np.array([[0.5, 0.9], [0.2, 0.3]]), 0.85)
      >>> clicks.tolist(), failed.tolist()
      ([2, 2], [False, True])
    """
    reached = iou >= target
    failed = ~reached.any(axis=1)
    return np.where(failed, iou.shape[1], reached.argmax(axis=1) + 1), failed


def calibration_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Computes the expected calibration error of predicted IoUs.

    Ten equal bins of [0, 1] each contribute the difference of their mean predicted and mean true
    IoU, weighted by their counts.

    Args:
      predicted: float, any shape.
      true: float, the same shape.
    """
    predicted, true = predicted.ravel().astype(np.float64), true.ravel().astype(np.float64)
    bins = np.clip((predicted * _CALIBRATION_BINS).astype(int), 0, _CALIBRATION_BINS - 1)
    gap = np.bincount(bins, predicted - true, _CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(predicted))
