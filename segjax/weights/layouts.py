"""How arrays lie in torch: transposed matrices, channel-first kernels. Shared by the tables of names of all models."""

import dataclasses
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
TOKEN = Layout(lambda x: x[None, None], lambda x: x[0, 0])  # a token [D] as a batch of one sequence of one
MATRIX = Layout(np.transpose, np.transpose)
CONV = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))  # HWIO <-> OIHW
TRANSPOSED_CONV = Layout(lambda x: x.transpose(0, 3, 1, 2), lambda x: x.transpose(0, 2, 3, 1))  # [in, 2, 2, out]

# Of a module: our leaf -> theirs, and its layout. A leaf "" is the array itself.
Leaves = dict[str, tuple[str, Layout]]
NORM: Leaves = {"scale": ("weight", SAME), "bias": ("bias", SAME)}
LINEAR, CONVOLUTION, UPSCALING, PATCHES_1, PATCHES_2 = (
    {"kernel": ("weight", layout), "bias": ("bias", SAME)}
    for layout in (MATRIX, CONV, TRANSPOSED_CONV, _patches(1), _patches(2))
)
