"""Position embeddings of a grid of patches: sine-cosine tables, and bicubic resizing.

This file needs NumPy alone. `segjax.weights` converts checkpoints with it, where there is no jax.
"""

import numpy as np

# Slope of PyTorch's bicubic kernel. Keys' own kernel, which `jax.image.resize` uses, has -0.5.
_CUBIC = -0.75
# Ways to resize a position table, see `position_weights`
RULES = ("size", "offset", "antialias")


def make_sincos_positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """Computes MAE's fixed sine-cosine position embeddings (arXiv 2111.06377, appendix A.1).

    The first half of the channels encodes the column, the second half the row. Each half holds the
    sines and then the cosines of index * 10000 ** (-k / (width / 4)), for k = 0 .. width / 4 - 1.
    MoCo v3's table has the same name but divides k by width / 4 - 1.

    Args:
      grid: (h, w), in patches.
      width: Channels, a multiple of 4.

    Returns:
      float32 [h, w, width].

    Raises:
      ValueError: `width` is not a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"a width of {width} has no sin-cos positions: expected a multiple of 4")
    frequencies = 10_000.0 ** (-np.arange(width // 4) / (width / 4))
    angles = [np.arange(size)[:, None] * frequencies for size in grid]
    rows, columns = (np.concatenate([np.sin(angle), np.cos(angle)], axis=-1) for angle in angles)
    # Columns come before rows, as in the published code and weights.
    shape = (*grid, width // 2)
    table = np.concatenate(
        [np.broadcast_to(columns, shape), np.broadcast_to(rows[:, None], shape)], axis=-1
    )
    return table.astype(np.float32)


def make_position_table(grid: tuple[int, int], width: int) -> np.ndarray:
    """Returns `make_sincos_positions` row by row, after a row of zeros for the class token.

    Args:
      grid: (h, w), in patches.
      width: Channels, a multiple of 4.

    Returns:
      float32 [1 + h * w, width].
    """
    table = make_sincos_positions(grid, width).reshape(-1, width)
    return np.concatenate([np.zeros_like(table[:1]), table])


def resize_bicubic(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Resizes the first two axes as `torch.nn.functional.interpolate(mode="bicubic")` does.

    It uses half-pixel centers, a kernel with a = -0.75, no antialiasing, and repeated edges.

    Args:
      table: [h, w, ...].
      grid: (h2, w2).

    Returns:
      float32 [h2, w2, ...].
    """
    for axis, size in enumerate(grid):
        if table.shape[axis] != size:
            weights = cubic_weights(table.shape[axis], size)
            table = np.moveaxis(np.tensordot(weights, table, axes=(1, axis)), 0, axis)
    return table.astype(np.float32)


def cubic_weights(size: int, target: int, scale: float | None = None) -> np.ndarray:
    """Computes the matrix that `resize_bicubic` applies along one axis.

    Pillow's antialiased kernel is `resize.antialiased_cubic_weights`.

    Args:
      size: Samples of the input.
      target: Samples of the output.
      scale: Distance of input samples, in output samples. None: target / size.

    Returns:
      float64 [target, size].
    """
    position = (np.arange(target) + 0.5) / (scale or target / size) - 0.5
    first = np.floor(position).astype(int) - 1
    weights = np.zeros((target, size))
    for tap in range(4):
        weight = cubic_tap(tap, abs(position - (first + tap)))
        # Samples beyond the edges repeat the first and the last one.
        np.add.at(weights, (np.arange(target), np.clip(first + tap, 0, size - 1)), weight)
    return weights


def position_weights(size: int, target: int, rule: str) -> np.ndarray:
    """Computes the matrix that resizes a position table along one axis, by a model's own rule.

    The rules differ by up to the size of the positions themselves, so weights need the rule they
    were published with.

    Args:
      size: Samples of the table.
      target: Samples of the result.
      rule: "size" (`resize_bicubic`; transformers' Dinov2), "offset" (the same with a scale of
        (target + 0.1) / size; DINO, and DINOv2 without registers), or "antialias" (Keys' kernel
        with a = -0.5, widened when the table shrinks; DINOv2 with registers, timm).

    Returns:
      float64 [target, size].

    Raises:
      ValueError: Another rule.
    """
    if rule == "size":
        return cubic_weights(size, target)
    if rule == "offset":
        return cubic_weights(size, target, (target + 0.1) / size)
    if rule != "antialias":
        raise ValueError(f"position rule {rule!r} is unknown; choose one of {', '.join(RULES)}")
    scale = size / target
    position = (np.arange(target)[:, None] + 0.5) * scale - 0.5
    distance = abs(np.arange(size) - position) / max(scale, 1)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def cubic_tap(tap: int, distance: np.ndarray) -> np.ndarray:
    """Computes the weight of one of the four samples around a position.

    Args:
      tap: Sample 0 to 3, from left to right.
      distance: Distance of the sample from the position, in samples. A NumPy or jax array.

    Returns:
      The weights, of the shape of `distance`.
    """
    if tap in (1, 2):
        return ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    return _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
