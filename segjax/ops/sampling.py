"""The few anchors or proposals of an image that a step trains on, in a fixed number of places."""

import jax
import jax.numpy as jnp

from segjax.ops.matching import NEGATIVE, POSITIVE


def sample_balanced(
    key: jax.Array, label: jax.Array, count: int, positive_fraction: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws positives up to a share of the places and negatives for the rest, each uniformly, none twice.

    Args:
      key: PRNG key of this image.
      label: int [A], from `match_boxes`: 1 positive, 0 negative, others are never drawn.
      count: places.
      positive_fraction: of them that positives may take at most, rounded down; negatives fill what is left.

    Returns:
      index: int32 [count] into label. Positives come first, then negatives, then places that are not filled (0).
      valid: bool [count], False in places that are not filled.
      positive: bool [count].
    """
    anchors = label.shape[0]
    # Raw bits, not float uniforms: 24-bit floats tie among this many, and top_k then favours the first.
    noise = (jax.random.bits(key, (anchors,), jnp.uint32) >> 1).astype(jnp.int32)
    positives, negatives = min(int(count * positive_fraction), anchors), min(count, anchors)
    positive_noise, positive_index = jax.lax.top_k(jnp.where(label == POSITIVE, noise, -1), positives)
    negative_noise, negative_index = jax.lax.top_k(jnp.where(label == NEGATIVE, noise, -1), negatives)
    found = jnp.sum(positive_noise >= 0)
    # What was drawn of either stands at the front of its list; one entry behind both stands for places left over.
    noise = jnp.concatenate([positive_noise, negative_noise, jnp.full(1, -1)])
    index = jnp.concatenate([positive_index, negative_index, jnp.zeros(1, jnp.int32)])
    place = jnp.arange(count)
    source = jnp.where(place < found, place, place - found + positives)
    source = jnp.minimum(source, positives + negatives)
    valid = noise[source] >= 0
    return jnp.where(valid, index[source], 0), valid, place < found
