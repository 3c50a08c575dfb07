"""cgF1: masks of all objects that a phrase names, and silence where there is none (SAM 3)."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from segjax.masks import compute_iou

THRESHOLDS = tuple(np.arange(50, 100, 5) / 100)


@dataclasses.dataclass
class ConceptScores:
    """Counts over pairs of an image and a phrase.

    A pair is positive if the image has objects that the phrase names.

    Attributes:
      matched: int [pairs, T], predictions that match an object above each IoU threshold, of the
        positive pairs.
      predicted: number of predictions of each positive pair.
      objects: number of objects of each positive pair.
      confusion: [[silent and absent, silent and present], [answered and absent, answered and
        present]], pairs.
    """

    matched: list[np.ndarray] = dataclasses.field(default_factory=list)
    predicted: list[int] = dataclasses.field(default_factory=list)
    objects: list[int] = dataclasses.field(default_factory=list)
    confusion: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((2, 2), int))

    def add(self, predictions: Sequence[np.ndarray], ground_truth: Sequence[np.ndarray]) -> None:
        """Adds a pair.

        Args:
          predictions: masks of confident predictions, bool [H, W].
          ground_truth: masks of the objects that the phrase names, [] for none.
        """
        self.confusion[int(len(predictions) > 0), int(len(ground_truth) > 0)] += 1
        if not len(ground_truth):
            return
        iou = np.array([[compute_iou(p, g) for g in ground_truth] for p in predictions])
        iou = iou.reshape(len(predictions), len(ground_truth))
        own = iou[linear_sum_assignment(-iou)]  # one-to-one, with the largest sum
        self.matched.append(np.array([(own >= at).sum() for at in THRESHOLDS]))
        self.predicted.append(len(predictions))
        self.objects.append(len(ground_truth))

    def summarize(self, prefix: str) -> dict[str, float]:
        """Returns {"PREFIX_cgf1": pmF1 * IL_MCC, "PREFIX_pmf1", "PREFIX_il_mcc"}.

        pmF1 is the F1 of all positive pairs together, averaged over IoU thresholds from 0.5 to
        0.95. IL_MCC is Matthews' correlation of "something was predicted" and "the phrase is true
        of something", 0 if one of them never varies. {} without a positive pair.
        """
        if not self.matched:
            return {}
        total = sum(self.predicted) + sum(self.objects)
        f1 = float(np.mean(2 * np.sum(self.matched, axis=0) / max(total, 1)))
        (tn, fn), (fp, tp) = self.confusion.astype(float)
        spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        mcc = float((tp * tn - fp * fn) / spread) if spread else 0.0
        return {f"{prefix}_cgf1": f1 * mcc, f"{prefix}_pmf1": f1, f"{prefix}_il_mcc": mcc}
