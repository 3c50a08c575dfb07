"""Layouts of arrays in torch: transposed matrices and channel-first kernels."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """Layout of an array in torch, as two functions that are inverses of each other.

    Attributes:
      to_torch: from our layout to torch's. Returns a view if possible.
      to_ours: from torch's layout to ours. Returns a view if possible.
    """

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray], np.ndarray]


def _patches(size: int) -> Layout:
    """Returns the layout of a convolution of stride `size`, our matrix [size * size * in, out]."""
    return Layout(
        lambda x: x.reshape(size, size, -1, x.shape[-1]).transpose(3, 2, 0, 1),
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    )


SAME = Layout(lambda x: x, lambda x: x)
ROW = Layout(lambda x: x[None], lambda x: x[0])  # an embedding table of one row
# A token [D] as a batch of one sequence of length one.
TOKEN = Layout(lambda x: x[None, None], lambda x: x[0, 0])
MATRIX = Layout(np.transpose, np.transpose)
CONV = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))  # HWIO <-> OIHW
# A matrix after a flattened map of 7x7 cells. Order of its inputs: row, column, channel in ours,
# channel, row, column in torch.
FLAT_7 = Layout(
    lambda x: x.reshape(7, 7, -1, x.shape[-1]).transpose(3, 2, 0, 1).reshape(x.shape[-1], -1),
    lambda x: x.reshape(x.shape[0], -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
)
# Class scores: the background is first in ours and last in theirs.
LAST_FIRST = Layout(lambda x: np.roll(x, -1, 0), lambda x: np.roll(x, 1, 0))
LAST_FIRST_MATRIX = Layout(lambda x: np.roll(x.T, -1, 0), lambda x: np.roll(x, 1, 0).T)
# Positions of a square grid: [1, h, w, D] in ours, [1, 1 + h * w, D] in theirs, with an unused row
# for the class token.
WITH_TOKEN = Layout(
    lambda x: np.pad(x.reshape(1, -1, x.shape[-1]), [(0, 0), (1, 0), (0, 0)]),
    lambda x: x[:, 1:].reshape(1, math.isqrt(x.shape[1] - 1), -1, x.shape[-1]),
)
# [in, 2, 2, out] <-> [in, out, 2, 2]
TRANSPOSED_CONV = Layout(lambda x: x.transpose(0, 3, 1, 2), lambda x: x.transpose(0, 2, 3, 1))

# Leaves of a module: our name -> (their name, layout). The name "" is the array itself.
Leaves = dict[str, tuple[str, Layout]]
NORM: Leaves = {"scale": ("weight", SAME), "bias": ("bias", SAME)}
BATCH_NORM: Leaves = NORM | {"mean": ("running_mean", SAME), "variance": ("running_var", SAME)}
LINEAR, CONVOLUTION, UPSCALING, PATCHES_1, PATCHES_2, FLATTENED = (
    {"kernel": ("weight", layout), "bias": ("bias", SAME)}
    for layout in (MATRIX, CONV, TRANSPOSED_CONV, _patches(1), _patches(2), FLAT_7)
)
BACKGROUND_LAST: Leaves = {"kernel": ("weight", LAST_FIRST_MATRIX), "bias": ("bias", LAST_FIRST)}
