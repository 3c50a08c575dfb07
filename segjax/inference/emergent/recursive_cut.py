"""Segments from features by recursive normalized cuts (DiffCut, arXiv 2406.02842)."""

import functools

import jax
import jax.numpy as jnp

from segjax.inference.emergent.spectral import second_eigenvector

_THRESHOLDS = 100  # of the eigenvector that are tried for each cut


def compute_affinity(features: jax.Array, power: float = 10.0) -> jax.Array:
    """Computes cosines of features, scaled to 0..1 over all pairs and raised to a power.

    Args:
      features: [n, D].
      power: larger powers separate more.

    Returns:
      float32 [n, n]. Ones if all cosines are equal.
    """
    features = features.astype(jnp.float32)
    unit = features / jnp.maximum(jnp.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    cosines = jnp.matmul(unit, unit.T, precision="highest")
    low, spread = cosines.min(), cosines.max() - cosines.min()
    scaled = (cosines - low) / jnp.where(spread > 1e-6, spread, 1.0)
    return jnp.where(spread > 1e-6, scaled, 1.0) ** power


@functools.partial(jax.jit, static_argnames=("max_segments",))
def recursive_ncut(
    affinity: jax.Array, tau: float = 0.5, max_segments: int = 32
) -> tuple[jax.Array, jax.Array]:
    """Cuts a graph in two, and each part again, while the normalized cut costs less than `tau`.

    Each cut is the best of 100 thresholds of the second eigenvector (Shi and Malik, 2000). The
    published code drops nodes that have an edge of exactly 0 to another node. This one keeps them.

    Args:
      affinity: float32 [n, n], symmetric, not negative, with self-loops. See `compute_affinity`.
      tau: cost of the cheapest cut that is not made. A cut into two equal halves without edges
        between them costs 0, one of a graph with equal weights 1.
      max_segments: cuts stop at this number of segments.

    Returns:
      labels: int32 [n], 0 .. segments - 1.
      segments: int32 [], number of segments.
    """

    def may_cut(carry):
        _, segments, settled = carry
        waiting = (jnp.arange(max_segments) < segments) & ~settled
        return waiting.any() & (segments < max_segments)

    def cut(carry):
        labels, segments, settled = carry
        waiting = (jnp.arange(max_segments) < segments) & ~settled
        segment = jnp.argmax(waiting)
        inside, cost = _find_cut(affinity, labels == segment)
        made = cost < tau
        labels = jnp.where(made & inside, segments, labels)
        return labels, segments + made, settled.at[segment].set(~made)

    start = (jnp.zeros(len(affinity), jnp.int32), jnp.int32(1), jnp.zeros(max_segments, bool))
    labels, segments, _ = jax.lax.while_loop(may_cut, cut, start)
    return labels, segments


def pool_segments(features: jax.Array, labels: jax.Array, segments: int) -> jax.Array:
    """Returns the mean feature of each segment, float32 [segments, D]. Zeros for empty ones.

    Args:
      features: [n, D].
      labels: int [n], 0 .. segments - 1.
      segments: number of segments.
    """
    members = jax.nn.one_hot(labels, segments, dtype=jnp.float32)
    count = members.sum(axis=0)[:, None]
    return members.T @ features.astype(jnp.float32) / jnp.maximum(count, 1)


def _find_cut(affinity: jax.Array, active: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the cheapest cut of the active nodes.

    Returns:
      inside: bool [n], one side.
      cost: float32 [], of the cut. Infinity if there is none.
    """
    weights = jnp.where(active[:, None] & active, affinity, 0)
    degree = weights.sum(axis=1)
    values, _ = second_eigenvector(affinity, active)
    values = jnp.where(values[jnp.argmax(jnp.abs(values))] < 0, -values, values)
    low = jnp.min(jnp.where(active, values, jnp.inf))
    high = jnp.max(jnp.where(active, values, -jnp.inf))
    cuts = jnp.linspace(0.99 * low, 0.99 * high, _THRESHOLDS)
    above = (values > cuts[:, None]) & active  # [thresholds, n]
    share = (above * degree).sum(axis=1) / jnp.maximum(degree.sum(), 1e-30)
    ratio = share / jnp.where(share < 1, 1 - share, 1)
    # Shi and Malik: y = (1 + s) - ratio * (1 - s), s = 1 on one side and -1 on the other
    y = jnp.where(above, 2.0, -2.0 * ratio[:, None]) * active
    cost = 1 - jnp.sum(y * (y @ weights), axis=1) / jnp.sum(y * y * degree, axis=1)
    sides = above.any(axis=1) & (active & ~above).any(axis=1)
    cost = jnp.where(sides & jnp.isfinite(cost), cost, jnp.inf)
    best = jnp.argmin(cost)
    return above[best], cost[best]
