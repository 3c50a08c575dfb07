"""How arrays lie in torch: transposed matrices, channel-first kernels. Shared by the tables of names of all models."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array lies in torch: two functions, each the inverse of the other; both return views where they can."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_ours: Callable[[np.ndarray], np.ndarray]


def _patches(size: int) -> Layout:
    """A convolution whose stride is its kernel: ours is the matrix [size * size * in, out]."""
    return Layout(
        lambda x: x.reshape(size, size, -1, x.shape[-1]).transpose(3, 2, 0, 1),
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
    )


SAME = Layout(lambda x: x, lambda x: x)
ROW = Layout(lambda x: x[None], lambda x: x[0])  # an embedding table of one row
TOKEN = Layout(
    lambda x: x[None, None], lambda x: x[0, 0]
)  # a token [D] as a batch of one sequence of one
MATRIX = Layout(np.transpose, np.transpose)
CONV = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))  # HWIO <-> OIHW
# A matrix behind a map of 7x7 cells laid out flat: ours by row, column, channel, torch's by channel, row, column.
FLAT_7 = Layout(
    lambda x: x.reshape(7, 7, -1, x.shape[-1]).transpose(3, 2, 0, 1).reshape(x.shape[-1], -1),
    lambda x: x.reshape(x.shape[0], -1, 7, 7).transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
)
# Scores of classes: ours with the background first, theirs with it last.
LAST_FIRST = Layout(lambda x: np.roll(x, -1, 0), lambda x: np.roll(x, 1, 0))
LAST_FIRST_MATRIX = Layout(lambda x: np.roll(x.T, -1, 0), lambda x: np.roll(x, 1, 0).T)
# Positions of a square grid: ours [1, h, w, D]; theirs [1, 1 + h * w, D] with a row for the class token, never used.
WITH_TOKEN = Layout(
    lambda x: np.pad(x.reshape(1, -1, x.shape[-1]), [(0, 0), (1, 0), (0, 0)]),
    lambda x: x[:, 1:].reshape(1, math.isqrt(x.shape[1] - 1), -1, x.shape[-1]),
)
TRANSPOSED_CONV = Layout(
    lambda x: x.transpose(0, 3, 1, 2), lambda x: x.transpose(0, 2, 3, 1)
)  # [in, 2, 2, out]

# Of a module: our leaf -> theirs, and its layout. A leaf "" is the array itself.
Leaves = dict[str, tuple[str, Layout]]
NORM: Leaves = {"scale": ("weight", SAME), "bias": ("bias", SAME)}
BATCH_NORM: Leaves = NORM | {"mean": ("running_mean", SAME), "variance": ("running_var", SAME)}
LINEAR, CONVOLUTION, UPSCALING, PATCHES_1, PATCHES_2, FLATTENED = (
    {"kernel": ("weight", layout), "bias": ("bias", SAME)}
    for layout in (MATRIX, CONV, TRANSPOSED_CONV, _patches(1), _patches(2), FLAT_7)
)
BACKGROUND_LAST: Leaves = {"kernel": ("weight", LAST_FIRST_MATRIX), "bias": ("bias", LAST_FIRST)}
