"""Pictures with rare classes more often than others (repeat factor sampling: LVIS, Gupta et al. 2019, section 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class RepeatFactorSource:
    """A source in which a picture comes as often as its rarest class asks for: max(1, sqrt(threshold / share)) times.

    The share is that of the pictures in which the class occurs. Where the factor is no whole number, some pictures come
    once more than others, the same ones in every epoch. Picklable if `source` is.

    Args:
      source: records (see `segjax.data.records`); every one is read once here, for its classes.
      threshold: the share below which a class is rare.
    """

    def __init__(self, source: Sequence[Mapping[str, Any]], threshold: float):
        if not 0 < threshold <= 1:
            raise ValueError(
                f"the share of pictures below which a class is rare lies in 0 .. 1, got {threshold}"
            )
        self.source = source
        self._ends = np.cumsum(
            compute_repeat_factors([set(_categories(source[i])) for i in range(len(source))], threshold)
        )

    def __len__(self) -> int:
        return int(self._ends[-1] + 0.5)

    def __getitem__(self, position: int) -> Any:
        if not 0 <= position < len(self):
            raise IndexError(f"picture {position} of {len(self)}")
        return self.source[int(np.searchsorted(self._ends, position + 0.5, side="right"))]


def compute_repeat_factors(classes: Sequence[set[int]], threshold: float) -> np.ndarray:
    """How often each picture comes, float64 of at least 1, by the classes in each."""
    number, pictures = np.unique([each for some in classes for each in some], return_counts=True)
    factors = np.maximum(1, np.sqrt(threshold * len(classes) / np.maximum(pictures, 1)))
    factor = dict(zip(number.tolist(), factors.tolist(), strict=True))
    return np.array([max((factor[each] for each in some), default=1.0) for some in classes])


def _categories(record: Mapping[str, Any]) -> list[int]:
    return np.asarray(record["objects"]["category"]).tolist()
