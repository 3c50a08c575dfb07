"""Attention merging: self-attention maps that are alike become segments (arXiv 2308.12469).

The functions take the attention of any network. For a diffusion model, pass the self-attention of
its UNet, taken at time step 300 with the empty prompt and without added noise.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.resize import resize_bilinear

_FLOOR = 1e-12  # below it, probabilities have no logarithm of use


def aggregate_attention(
    maps: Sequence[jax.Array],
    side: int | tuple[int, int] = 64,
    grids: Sequence[tuple[int, int]] | None = None,
    weights: Sequence[float] | None = None,
) -> jax.Array:
    """Averages attention maps of several layers and resolutions on one grid.

    Each query's map over the keys is resized bilinearly and scaled to sum 1. Queries are repeated.

    Args:
      maps: of each layer, [heads, n, n], rows over the keys.
      side: side of the grid, or its (h, w). A multiple of each layer's.
      grids: (h, w) of each layer. None: squares.
      weights: of the layers. None: proportional to the number of rows h of their grids, shared
        among layers of one grid.

    Returns:
      float32 [h, w, h, w], each [i, j] of sum 1.

    Raises:
      ValueError: no map, one that does not fit its grid, or a grid that does not divide the sides.
    """
    target = (side, side) if isinstance(side, int) else tuple(side)
    if not len(maps):
        raise ValueError("no attention map; expected at least one layer")
    if grids is None:
        grids = [(int(round(m.shape[-1] ** 0.5)),) * 2 for m in maps]
    for index, (layer, grid) in enumerate(zip(maps, grids, strict=True)):
        cells = grid[0] * grid[1]
        if layer.ndim != 3 or layer.shape[1:] != (cells, cells):
            raise ValueError(
                f"attention map {index} is {layer.shape}; expected [heads, {cells}, {cells}] on a "
                f"grid of {grid}"
            )
        if target[0] % grid[0] or target[1] % grid[1]:
            raise ValueError(f"a grid of {grid} does not divide the sides {target}")
    if weights is None:
        same = [sum(other == grid for other in grids) for grid in grids]
        weights = [grid[0] / count for grid, count in zip(grids, same, strict=True)]
    shares = np.asarray(weights, float) / np.sum(weights)
    total = jnp.zeros((*target, *target))
    for layer, grid, share in zip(maps, grids, shares, strict=True):
        total = total + float(share) * _resize_layer(layer, grid, target)
    return total


@functools.partial(jax.jit, static_argnums=(1, 2))
def _resize_layer(layer: jax.Array, grid: tuple[int, int], target: tuple[int, int]) -> jax.Array:
    """Returns a layer's mean over heads on the target grid, float32 [h, w, h, w]."""
    mean = layer.astype(jnp.float32).mean(axis=0).reshape(-1, *grid)
    keys = resize_bilinear(mean, target)
    keys = keys / jnp.maximum(keys.sum(axis=(1, 2), keepdims=True), _FLOOR)
    queries = keys.reshape(*grid, *target)
    for axis in (0, 1):
        queries = jnp.repeat(queries, target[axis] // grid[axis], axis=axis)
    return queries


def compare_distributions(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the symmetric Kullback-Leibler divergence, (KL(x|y) + KL(y|x)) / 2.

    Example:
      >>> pair = jnp.array([[0.9, 0.1]]), jnp.array([[0.1, 0.9]])
      >>> round(float(compare_distributions(*pair)[0, 0]), 4)  # 0.8 ln 9
      1.7578

    Args:
      x: [a, n], rows of sum 1.
      y: [b, n].

    Returns:
      float32 [a, b]. Zeros count as 1e-12, so the result is finite.
    """
    log_x, log_y = (jnp.log(jnp.maximum(z, _FLOOR)) for z in (x, y))
    dot = functools.partial(jnp.matmul, precision="highest")
    own = (x * log_x).sum(1)[:, None] + (y * log_y).sum(1)
    return 0.5 * (own - dot(x, log_y.T) - dot(log_x, y.T))


@functools.partial(jax.jit, static_argnames=("anchors",))
def merge_attention(
    attention: jax.Array, thresholds: jax.Array, anchors: int = 16
) -> tuple[jax.Array, jax.Array]:
    """Merges the attention maps of a grid of anchors into proposals.

    First, each anchor becomes the mean of all maps whose divergence from it is below the first
    threshold. Then, for each further threshold, the proposals are visited in order. One that was
    not joined yet becomes the mean of all that are near to it.

    Args:
      attention: [h, w, h, w], each [i, j] of sum 1, see `aggregate_attention`.
      thresholds: [rounds], of the divergence. At least two: the first round merges nothing.
      anchors: number of anchors along a side. On a smaller grid every cell is an anchor.

    Returns:
      proposals: float32 [K, h, w], K the number of anchors.
      alive: bool [K], True for the proposals that are left.
    """
    height, width = attention.shape[:2]
    maps = attention.reshape(height * width, -1).astype(jnp.float32)
    rows, columns = (_place_anchors(length, anchors) for length in (height, width))
    chosen = maps.reshape(height, width, -1)[rows[:, None], columns].reshape(-1, maps.shape[1])
    near = compare_distributions(chosen, maps) < thresholds[0]
    # An anchor is near to itself, also where rounding says otherwise
    count = near.sum(axis=1, keepdims=True)
    proposals = jnp.where(count > 0, near @ maps / jnp.maximum(count, 1), chosen)
    alive = jnp.ones(len(proposals), bool)

    def join(carry, threshold):
        """Runs one round: each proposal that is not joined yet absorbs those near to it."""
        proposals, alive = carry
        near = compare_distributions(proposals, proposals) < threshold
        near = (near | jnp.eye(len(near), dtype=bool)) & alive
        means = near @ proposals / jnp.maximum(near.sum(axis=1, keepdims=True), 1)

        def visit(index, state):
            joined, left = state
            is_new = alive[index] & ~joined[index]
            return joined | (near[index] & is_new), left.at[index].set(is_new)

        joined = left = jnp.zeros(len(near), bool)
        _, left = jax.lax.fori_loop(0, len(near), visit, (joined, left))
        return (means, left), None

    (proposals, alive), _ = jax.lax.scan(join, (proposals, alive), thresholds[1:])
    return proposals.reshape(-1, height, width), alive


def label_pixels(proposals: jax.Array, alive: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the proposal with the largest value in each pixel.

    Args:
      proposals: float32 [K, h, w], see `merge_attention`.
      alive: bool [K].
      size: (H, W) of the image.

    Returns:
      int32 [H, W], indices of proposals.
    """
    resized = resize_bilinear(proposals, size)
    return jnp.argmax(jnp.where(alive[:, None, None], resized, -jnp.inf), axis=0)


def make_heat_map(maps: Sequence[jax.Array], tokens: Sequence[int], side: int = 64) -> jax.Array:
    """Averages the cross-attention maps of a word's tokens (DAAM, arXiv 2210.04885).

    Args:
      maps: of each layer and step, [heads, h * w, tokens], of squares h = w.
      tokens: indices of the word's tokens.
      side: side of the result.

    Returns:
      float32 [side, side], scaled to 0..1. Zeros for constant maps.
    """
    total = jnp.zeros((side, side))
    for layer in maps:
        cells = int(round(layer.shape[1] ** 0.5))
        mean = layer.mean(axis=0)[:, jnp.asarray(tokens)].mean(axis=1).reshape(cells, cells)
        total = total + jnp.maximum(jax.image.resize(mean, (side, side), "cubic"), 0)
    spread = total.max() - total.min()
    return jnp.where(spread > 0, (total - total.min()) / jnp.where(spread > 0, spread, 1), 0.0)


def _place_anchors(length: int, anchors: int) -> np.ndarray:
    """Returns the indices of anchors along a side: all of them on a small grid."""
    if length <= anchors:
        return np.arange(length)
    return np.arange(1, length, max((length - 1) // (anchors - 1), 1))[:anchors]
