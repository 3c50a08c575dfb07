"""Classification accuracy, counted exactly over batches of any size."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass
class ClassificationScores:
    """Counts of correct classifications. Add batches with `add`, then call `summarize`.

    Attributes:
      classes: number of classes K.
      confusion: int64 [K, K], images by true class (rows) and predicted class (columns).
    """

    classes: int
    confusion: np.ndarray = dataclasses.field(init=False)
    _in_top5: int = 0
    _losses: list[float] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.classes, self.classes), np.int64)

    @property
    def count(self) -> int:
        """Number of images so far."""
        return int(self.confusion.sum())

    def add(
        self, logits: np.ndarray, labels: np.ndarray, losses: np.ndarray, weight: np.ndarray
    ) -> None:
        """Adds a batch.

        Args:
          logits: float [B, K].
          labels: int [B], true classes.
          losses: float [B], loss of each image.
          weight: float [B]. Rows of weight 0 are ignored.
        """
        real = np.asarray(weight) > 0
        logits, labels = np.asarray(logits)[real], np.asarray(labels)[real]
        np.add.at(self.confusion, (labels, logits.argmax(axis=1)), 1)
        # The rank of the true class is the number of larger logits.
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        self._in_top5 += int(((logits > own).sum(axis=1) < 5).sum())
        self._losses.append(math.fsum(np.asarray(losses, np.float64)[real]))

    def summarize(self) -> dict[str, float]:
        """Returns the means over the images.

        "eval_loss": mean loss. "top1", "top5": share of images whose class is the best one, or
        among the five best (with more than five classes). "per_class": mean over classes of the
        top-1 accuracy. "commonest": share of the most frequent class, the accuracy of a constant
        prediction.
        """
        given = self.confusion.sum(axis=1)
        correct = np.diag(self.confusion)
        numbers = {
            "eval_loss": math.fsum(self._losses) / self.count,
            "top1": correct.sum() / self.count,
        }
        if self.classes > 5:
            numbers["top5"] = self._in_top5 / self.count
        # Classes without images have no accuracy.
        numbers["per_class"] = (correct[given > 0] / given[given > 0]).mean()
        return {name: float(value) for name, value in numbers.items()} | {
            "commonest": float(given.max() / self.count)
        }
