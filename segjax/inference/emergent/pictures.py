"""Masks and images of what a network attends to, and of the main directions of its features."""

import jax
import jax.numpy as jnp


def keep_mass(attention: jax.Array, share: float = 0.6) -> jax.Array:
    """Returns the smallest set of patches that holds more than a share of the attention.

    This is how DINO turns attention into masks (arXiv 2104.14294, section 4.2).

    Example:
      >>> keep_mass(jnp.array([0.05, 0.31, 0.10, 0.19, 0.05, 0.30])).tolist()
      [False, True, False, False, False, True]

    Args:
      attention: [..., n], attention of one query to the patches. It need not sum to 1.
      share: of the attention, 0..1.

    Returns:
      bool [..., n]. All False where the attention is zero.
    """
    total = attention.sum(axis=-1, keepdims=True)
    scaled = attention / jnp.where(total > 0, total, 1)
    order = jnp.argsort(scaled, axis=-1)
    summed = jnp.cumsum(jnp.take_along_axis(scaled, order, axis=-1), axis=-1)
    kept = (summed > 1 - share) & (total > 0)
    return jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1)


def find_components(
    features: jax.Array, count: int = 3, rows: jax.Array | None = None
) -> jax.Array:
    """Projects features on their principal components, with fixed signs.

    The largest loading of a component is positive, so that images are the same in every run.

    Args:
      features: [n, D].
      count: number of components.
      rows: bool [n], rows that the components are computed from. None: all.

    Returns:
      float32 [n, count]. Zeros for components beyond the rank, such as those of constant features.
    """
    features = features.astype(jnp.float32)
    used = jnp.ones(len(features), bool) if rows is None else rows
    number = jnp.maximum(used.sum(), 1)
    mean = jnp.where(used[:, None], features, 0).sum(axis=0) / number
    centered = features - mean
    _, strength, directions = jnp.linalg.svd(
        jnp.where(used[:, None], centered, 0), full_matrices=False
    )
    largest = jnp.take_along_axis(
        directions, jnp.argmax(jnp.abs(directions), axis=1, keepdims=True), axis=1
    )
    directions = directions * jnp.where(largest < 0, -1, 1)
    exists = strength > 1e-6 * jnp.maximum(strength[0], 1e-30) * (strength[0] > 1e-12)
    directions = jnp.where(exists[:, None], directions, 0)[:count]
    missing = count - len(directions)
    return jnp.pad(centered @ directions.T, ((0, 0), (0, missing)))


def color_components(features: jax.Array, foreground: bool = False) -> jax.Array:
    """Colors patches by the first three principal components of their features, as in DINOv2.

    Args:
      features: [n, D], patches of one image or of several.
      foreground: patches whose first component is negative are background. They are black, and the
        colors are those of the others.

    Returns:
      float32 [n, 3], 0..1.
    """
    rows = jnp.ones(len(features), bool)
    if foreground:
        rows = find_components(features, 1)[:, 0] > 0
    components = find_components(features, 3, rows)
    low = jnp.min(jnp.where(rows[:, None], components, jnp.inf), axis=0)
    high = jnp.max(jnp.where(rows[:, None], components, -jnp.inf), axis=0)
    spread = high - low
    colors = (components - low) / jnp.where(spread > 0, spread, 1)
    return jnp.where(rows[:, None] & (spread > 0), colors, 0.0)
