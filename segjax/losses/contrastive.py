"""Contrastive loss of CLIP: matching images and texts within a batch."""

import jax
import jax.numpy as jnp


def info_nce(
    images: jax.Array,
    texts: jax.Array,
    scale: jax.Array,
    weight: jax.Array,
    true: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes the symmetric InfoNCE loss of pairs (CLIP, arXiv 2103.00020, figure 3).

    Row i of the images belongs to row i of the texts. All other rows of the batch, on all devices,
    are its negatives.

    Example:
      >>> vectors = jnp.eye(3)
      >>> losses, correct = info_nce(vectors, vectors, 100.0, jnp.ones(3))
      >>> losses.round(3).tolist(), correct.tolist()
      ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])

    Args:
      images: [N, E], of length 1.
      texts: [N, E], of length 1.
      scale: factor of the cosines, the inverse of the temperature.
      weight: [N], 0 for pairs that do not count. They are no negatives either.
      true: bool [N, N], True where text j is known to be true of image i. It is no negative then.
        None: each text is true of its own image alone.

    Returns:
      losses: float32 [N], mean of the losses image -> text and text -> image.
      correct: float32 [N], share of the two directions in which the own row has the largest cosine.
    """
    logits = scale * jnp.einsum("ie,te->it", images, texts, preferred_element_type=jnp.float32)
    own = jnp.eye(len(logits), dtype=bool)
    present = weight > 0
    negative = present[:, None] & present[None, :]
    if true is not None:
        negative &= ~true
    logits = jnp.where(own | negative, logits, -jnp.inf)
    losses, correct = 0.0, 0.0
    for axis in (0, 1):
        diagonal = jnp.diagonal(logits)
        losses += 0.5 * (jax.nn.logsumexp(logits, axis=axis) - diagonal)
        correct += 0.5 * (logits.max(axis=axis) <= diagonal)
    return losses, correct
