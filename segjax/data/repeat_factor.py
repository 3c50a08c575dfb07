"""Repeat factor sampling (LVIS, Gupta et al. 2019, section 4): rare classes come more often."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class RepeatFactorSource:
    """Source that repeats the images of rare classes.

    The repeat factor of a class is max(1, sqrt(threshold / f)), where f is the share of images in
    which it occurs. The factor of an image is that of its rarest class. If a factor is not an
    integer, some images come once more than others, and the same ones in every epoch.

    It can be pickled if `source` can.

    Args:
      source: records, see `segjax.data.records`. Each is read once here for its classes.
      threshold: share of images below which a class is rare.

    Raises:
      ValueError: the threshold is not a share.
    """

    def __init__(self, source: Sequence[Mapping[str, Any]], threshold: float):
        if not 0 < threshold <= 1:
            raise ValueError(
                f"the share of images below which a class is rare lies in 0 .. 1, got {threshold}"
            )
        self.source = source
        # Fractional ends: index i belongs to the first record whose end exceeds i + 0.5.
        self._ends = np.cumsum(
            compute_repeat_factors(
                [set(_list_categories(source[i])) for i in range(len(source))], threshold
            )
        )

    def __len__(self) -> int:
        return int(self._ends[-1] + 0.5)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.source[int(np.searchsorted(self._ends, index + 0.5, side="right"))]


def compute_repeat_factors(classes: Sequence[set[int]], threshold: float) -> np.ndarray:
    """Computes the repeat factor of each image.

    Args:
      classes: set of the classes in each image.
      threshold: share of images below which a class is rare.

    Returns:
      float64 [images], at least 1.
    """
    number, images = np.unique([each for some in classes for each in some], return_counts=True)
    factors = np.maximum(1, np.sqrt(threshold * len(classes) / np.maximum(images, 1)))
    factor = dict(zip(number.tolist(), factors.tolist(), strict=True))
    return np.array([max((factor[each] for each in some), default=1.0) for some in classes])


def _list_categories(record: Mapping[str, Any]) -> list[int]:
    return np.asarray(record["objects"]["category"]).tolist()
