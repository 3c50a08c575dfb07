"""Position tables of a grid of patches, fixed and learned: made, and brought to another grid.

NumPy alone: `segjax.weights` converts checkpoints with it, where there is no jax.
"""

import numpy as np

_CUBIC = (
    -0.75
)  # the slope of torch's bicubic kernel; Keys's own is -0.5, which is what `jax.image.resize` takes


def make_sincos_positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """MAE's fixed table (arXiv 2111.06377, appendix A.1), as its published code and weights have it.

    The first half of the channels codes the column, the second half the row. Each half holds the sines and then the
    cosines of a patch's index times 10000 ** (-k / (width / 4)), k = 0 .. width / 4 - 1. (MoCo v3's table, which also
    goes by that name, divides k by width / 4 - 1.)

    Args:
      grid: (h, w), in patches. width: channels, a multiple of 4.

    Returns:
      float32 [h, w, width].

    Raises:
      ValueError: width is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"a width of {width} has no sin-cos positions: expected a multiple of 4")
    frequencies = 10_000.0 ** (-np.arange(width // 4) / (width / 4))
    coded = [np.arange(size)[:, None] * frequencies for size in grid]
    rows, columns = (np.concatenate([np.sin(angle), np.cos(angle)], axis=-1) for angle in coded)
    shape = (*grid, width // 2)
    table = np.concatenate(
        [np.broadcast_to(columns, shape), np.broadcast_to(rows[:, None], shape)], axis=-1
    )
    return table.astype(np.float32)


def make_position_table(grid: tuple[int, int], width: int) -> np.ndarray:
    """float32 [1 + h * w, width]: `make_sincos_positions` row by row, behind zeros for the class token."""
    table = make_sincos_positions(grid, width).reshape(-1, width)
    return np.concatenate([np.zeros_like(table[:1]), table])


def resize_bicubic(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Bicubic resize of the first two axes, as `torch.nn.functional.interpolate(mode="bicubic")` does it.

    Half-pixel centres, kernel with a = -0.75, no antialiasing, edges repeated.

    Args:
      table: [h, w, ...]. grid: (h2, w2).

    Returns:
      float32 [h2, w2, ...].
    """
    for axis, size in enumerate(grid):
        if table.shape[axis] != size:
            weights = cubic_weights(table.shape[axis], size)
            table = np.moveaxis(np.tensordot(weights, table, axes=(1, axis)), 0, axis)
    return table.astype(np.float32)


def cubic_weights(size: int, target: int) -> np.ndarray:
    """The matrix [target, size], float64, that `resize_bicubic` applies along one axis."""
    position = (np.arange(target) + 0.5) * (size / target) - 0.5
    first = np.floor(position).astype(int) - 1
    weights = np.zeros((target, size))
    for tap in range(4):
        weight = cubic_tap(tap, abs(position - (first + tap)))
        np.add.at(weights, (np.arange(target), np.clip(first + tap, 0, size - 1)), weight)
    return weights


def cubic_tap(tap: int, distance: np.ndarray) -> np.ndarray:
    """Weight of one of the four samples around a place, 0 to 3 from left to right, by its distance from there."""
    if tap in (1, 2):
        return ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    return _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
