"""Text -> mask: how well a mask that a phrase asks for covers its object."""

import dataclasses
from collections.abc import Sequence

import numpy as np

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass
class TextScores:
    """Intersections and unions of predicted and true masks, one per phrase, by kind of phrase."""

    kinds: list[str] = dataclasses.field(default_factory=list)
    intersections: list[int] = dataclasses.field(default_factory=list)
    unions: list[int] = dataclasses.field(default_factory=list)

    def add(self, kind: str, prediction: np.ndarray, ground_truth: np.ndarray) -> None:
        """Adds a phrase.

        Args:
          kind: of the phrase.
          prediction: bool [H, W]. An empty one says that nothing was found.
          ground_truth: bool [H, W].
        """
        self.kinds.append(kind)
        self.intersections.append(int(np.count_nonzero(prediction & ground_truth)))
        self.unions.append(int(np.count_nonzero(prediction | ground_truth)))

    def summarize(self, prefix: str, kinds: Sequence[str] = ()) -> dict[str, float]:
        """Returns means over all phrases, and the mean IoU of each kind.

        Args:
          prefix: of the names, such as "text".
          kinds: kinds to report, in this order. Those without a phrase are left out.

        Returns:
          {"PREFIX_miou": mean of the IoUs, "PREFIX_oiou": sum of intersections over sum of unions,
          "PREFIX_p@0.5" and so on: share of phrases above an IoU, "PREFIX_miou/KIND"}.
        """
        unions = np.array(self.unions, float)
        ious = np.array(self.intersections) / np.maximum(unions, 1)
        if not len(ious):
            return {}
        found = {
            f"{prefix}_miou": float(ious.mean()),
            f"{prefix}_oiou": float(sum(self.intersections) / max(unions.sum(), 1)),
        }
        found |= {f"{prefix}_p@{at}": float(np.mean(ious > at)) for at in THRESHOLDS}
        for kind in kinds:
            own = ious[np.array(self.kinds) == kind]
            if len(own):
                found[f"{prefix}_miou/{kind}"] = float(own.mean())
        return found
