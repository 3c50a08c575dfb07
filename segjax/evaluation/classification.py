"""How many pictures were called by their name: counts over any batches, exact."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass
class ClassificationScores:
    """Adds up batches; `numbers` gives the means.

    confusion: int64 [classes, classes], pictures by given class (rows) and named class (columns).
    """

    classes: int
    confusion: np.ndarray = dataclasses.field(init=False)
    _among_five: int = 0
    _losses: list[float] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.classes, self.classes), np.int64)

    @property
    def count(self) -> int:
        """Pictures so far."""
        return int(self.confusion.sum())

    def add(
        self, logits: np.ndarray, labels: np.ndarray, losses: np.ndarray, weight: np.ndarray
    ) -> None:
        """A batch: logits [B, classes], labels int [B], losses [B]; rows of weight [B] 0 count for nothing."""
        kept = np.asarray(weight) > 0
        logits, labels = np.asarray(logits)[kept], np.asarray(labels)[kept]
        np.add.at(self.confusion, (labels, logits.argmax(axis=1)), 1)
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        self._among_five += int(((logits > own).sum(axis=1) < 5).sum())
        self._losses.append(math.fsum(np.asarray(losses, np.float64)[kept]))

    def numbers(self) -> dict[str, float]:
        """Means over the pictures.

        "eval_loss"; "top1", the share named rightly; "top5" with more than five classes; "per_class", top1 of each
        class that occurs, averaged; "commonest", the share of the most frequent class: what a constant answer gets.
        """
        given = self.confusion.sum(axis=1)
        right = np.diag(self.confusion)
        numbers = {
            "eval_loss": math.fsum(self._losses) / self.count,
            "top1": right.sum() / self.count,
        }
        if self.classes > 5:
            numbers["top5"] = self._among_five / self.count
        numbers["per_class"] = (right[given > 0] / given[given > 0]).mean()
        return {name: float(value) for name, value in numbers.items()} | {
            "commonest": float(given.max() / self.count)
        }
