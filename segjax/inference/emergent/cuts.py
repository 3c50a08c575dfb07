"""Objects from the features of patches by graph cuts: TokenCut, MaskCut and LOST.

The functions take the features of one image, usually the keys of a ViT's last block. All shapes are
static, so they can be compiled and mapped over images.
"""

import functools

import jax
import jax.numpy as jnp

from segjax.inference.emergent.spectral import second_eigenvector

WEAK_EDGE = 1e-5  # weight between patches that are not alike
_LARGEST_IOU = 0.5  # MaskCut: a later mask is dropped above this IoU with the one before
_SMALLEST_SHARE = 0.01  # MaskCut: and below this share of the patches


@functools.partial(jax.jit, static_argnames=("grid",))
def token_cut(
    features: jax.Array, grid: tuple[int, int], tau: float = 0.2
) -> tuple[jax.Array, jax.Array]:
    """Segments the most salient object (TokenCut, arXiv 2202.11539).

    Patches whose cosine similarity exceeds `tau` are joined by edges of weight 1, all others by
    weak ones. The normalized cut of this graph separates object and background. The object is the
    connected part around the patch with the largest value.

    Args:
      features: [n, D], n = h * w, row by row.
      grid: (h, w).
      tau: lowest similarity of joined patches.

    Returns:
      mask: bool [h, w]. Empty if all patches are alike, and on a grid of one patch.
      values: float32 [h, w], the eigenvector. Positive on the object's side of its mean.
    """
    values, split = _cut_graph(features, grid, tau)
    inside = values > values.mean()
    seed = jnp.argmax(jnp.abs(values))
    flip = ~inside[seed]
    inside, values = inside ^ flip, jnp.where(flip, -values, values)
    mask = grow_component(inside.reshape(grid), seed) & split
    return mask, values.reshape(grid)


@functools.partial(jax.jit, static_argnames=("grid", "rounds"))
def mask_cut(
    features: jax.Array, grid: tuple[int, int], tau: float = 0.15, rounds: int = 3
) -> jax.Array:
    """Segments several objects by repeated cuts (MaskCut, arXiv 2301.11320).

    After each cut the features of the found object are set to 0, so that the next cut finds another
    one. A side that holds 3 of the 4 corners of the image is background.

    Args:
      features: [n, D], n = h * w, row by row.
      grid: (h, w).
      tau: lowest similarity of joined patches.
      rounds: number of cuts.

    Returns:
      Masks, bool [rounds, h, w], without overlaps. A mask is empty if it repeats the one before or
      covers 1 % of the patches or less.
    """
    painted = current = jnp.zeros(grid, bool)
    masks = []
    for index in range(rounds):
        painted = painted | current
        left = jnp.where(painted.reshape(-1, 1), 0, features)
        mask = _cut_object(left, grid, tau)
        if index:
            union = jnp.maximum(jnp.sum(current | mask), 1)
            repeated = jnp.sum(current & mask) / union > _LARGEST_IOU
            mask = mask & ~(repeated | (mask.mean() <= _SMALLEST_SHARE))
        current = mask
        earlier = functools.reduce(jnp.logical_or, masks, jnp.zeros(grid, bool))
        masks.append(mask & ~earlier)
    return jnp.stack(masks)


@functools.partial(jax.jit, static_argnames=("grid", "count"))
def lost(
    features: jax.Array, grid: tuple[int, int], count: int = 100
) -> tuple[jax.Array, jax.Array]:
    """Segments one object from the patch that is like the fewest others (LOST, arXiv 2109.14279).

    Args:
      features: [n, D], n = h * w, row by row. Not normalized.
      grid: (h, w).
      count: number of patches of low degree that may belong to the object.

    Returns:
      mask: bool [h, w]. Empty if no pair of patches has a positive product, and if all have one.
      seed: int32 [], index of the first patch.
    """
    features = features.astype(jnp.float32)
    products = jnp.matmul(features, features.T, precision="highest")
    nodes = len(products)
    positive = products > 0
    degree = (positive & ~jnp.eye(nodes, dtype=bool)).sum(axis=1)
    lowest = jnp.argsort(degree, stable=True)[: min(count, nodes)]
    seed = lowest[0]
    similar = products[seed, lowest] > 0
    total = jnp.where(similar[:, None], products[lowest], 0).sum(axis=0)
    split = positive.any() & ~positive.all()
    return grow_component((total > 0).reshape(grid), seed) & split, seed


def grow_component(mask: jax.Array, seed: jax.Array) -> jax.Array:
    """Returns the 4-connected part of a mask that holds a cell.

    Args:
      mask: bool [h, w].
      seed: int [], index of the cell, row by row. The result is empty if it is not in the mask.

    Returns:
      bool [h, w].
    """
    start = (jnp.arange(mask.size) == seed).reshape(mask.shape) & mask

    def grow(carry):
        part, _ = carry
        padded = jnp.pad(part, 1)
        around = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        grown = (part | around) & mask
        return grown, jnp.any(grown != part)

    return jax.lax.while_loop(lambda carry: carry[1], grow, (start, jnp.any(start)))[0]


def _cut_graph(
    features: jax.Array, grid: tuple[int, int], tau: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the second eigenvector [n] of the graph of patches, and whether there is a cut."""
    if len(features) != grid[0] * grid[1]:
        raise ValueError(f"{len(features)} patches, grid {grid}; expected h * w patches")
    features = features.astype(jnp.float32)
    length = jnp.linalg.norm(features, axis=1, keepdims=True)
    unit = jnp.where(length > 0, features / jnp.maximum(length, 1e-12), 0)
    alike = jnp.matmul(unit, unit.T, precision="highest") > tau
    weights = jnp.where(alike, 1.0, WEAK_EDGE)
    # Equal weights: every cut is as good as any other. (The diagonal of zeroed patches is weak.)
    split = alike.any() & ~alike.all() & jnp.any(alike & ~jnp.eye(len(alike), dtype=bool))
    return second_eigenvector(weights)[0], split


def _cut_object(features: jax.Array, grid: tuple[int, int], tau: float) -> jax.Array:
    """Returns the mask of one of MaskCut's rounds, bool [h, w]."""
    values, split = _cut_graph(features, grid, tau)
    inside = values > values.mean()
    cells = inside.reshape(grid)
    corners = cells[jnp.array([0, 0, -1, -1]), jnp.array([0, -1, 0, -1])].sum()
    flip = (corners >= 3) | ~inside[jnp.argmax(jnp.abs(values))]
    inside, values = inside ^ flip, jnp.where(flip, -values, values)
    return grow_component(inside.reshape(grid), jnp.argmax(values)) & split
