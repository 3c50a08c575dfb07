"""Masks as run lengths along rows, which a web page paints without decoding anything else."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def encode_runs(mask: np.ndarray) -> list[int]:
    """Returns the lengths of alternating runs, row by row, those outside of the mask first.

    Example:
      >>> encode_runs(np.array([[False, True, True], [True, False, False]]))
      [1, 3, 2]

    Args:
      mask: bool [H, W].
    """
    flat = np.asarray(mask, bool).reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(edges, prepend=0, append=flat.size).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def decode_runs(runs: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Returns the mask of run lengths, bool [height, width].

    Raises:
      ValueError: runs that are no whole numbers from 0, or do not fill the image.
    """
    if not isinstance(runs, list) or not all(type(x) is int and x >= 0 for x in runs):
        raise ValueError("a mask is not a list of run lengths; expected whole numbers from 0")
    if sum(runs) != height * width:
        raise ValueError(
            f"a mask has runs of {sum(runs)} pixels; expected {height} x {width} = {height * width}"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(height, width)
