"""What the last block of a ViT can do besides plain attention: records, masks and dense features.

The parameters are those of plain attention, so a trained model takes any of these variants.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.models.attention.relative_positions import RelativeScores, fold_relative_scores

# Dense features of patches in place of those of the class token (see `mix_tokens`).
DENSE = ("", "values", "self_similarity")


class BlockRecord(NamedTuple):
    """Attention of a block, for inspection and for methods that cut images by it.

    Attributes:
      q: queries, [..., T, heads, C], unscaled.
      k: keys, [..., T, heads, C].
      v: values, [..., T, heads, C].
      weights: attention weights, float32 [..., heads, T, T]. Rows sum to 1.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    weights: jax.Array


def compute_attention_weights(
    q: jax.Array, k: jax.Array, relative: RelativeScores | None = None, causal: bool = False
) -> jax.Array:
    """Computes softmax(q k^T / sqrt(C) + relative), float32 [..., heads, Tq, Tk].

    Example:
      >>> compute_attention_weights(jnp.ones((5, 2, 8)), jnp.ones((5, 2, 8))).shape
      (2, 5, 5)

    Args:
      q: [..., Tq, heads, C].
      k: [..., Tk, heads, C].
      relative: scores of decomposed relative positions, see `compute_relative_scores`.
      causal: a query sees the keys up to its own index.
    """
    scale = q.shape[-1] ** -0.5
    if relative is not None:
        q, k, scale = *fold_relative_scores(q * scale, k, relative), 1.0
    scores = jnp.einsum("...qhc,...khc->...hqk", q, k, preferred_element_type=jnp.float32)
    if causal:
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
    return jax.nn.softmax(scores * scale, axis=-1)


def pool_by_masks(q: jax.Array, k: jax.Array, v: jax.Array, masks: jax.Array) -> jax.Array:
    """Computes the attention of one query under several masks (masked attention).

    The scores do not depend on the mask. They are computed once, so many masks cost little more
    than one.

    Args:
      q: [B, heads, C], the class token's.
      k: [B, T, heads, C].
      v: [B, T, heads, C].
      masks: bool [B, K, T], keys that the query sees. A mask without any key gives zeros.

    Returns:
      [B, K, heads, C].
    """
    scores = jnp.einsum("bhc,bthc->bht", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(masks[:, :, None], scores[:, None] * q.shape[-1] ** -0.5, -jnp.inf)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - jnp.where(jnp.isfinite(largest), largest, 0.0))
    total = weights.sum(-1)[..., None]
    pooled = jnp.einsum(
        "bkht,bthc->bkhc", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (pooled / jnp.where(total > 0, total, 1.0)).astype(v.dtype)


def mix_tokens(q: jax.Array, k: jax.Array, v: jax.Array, dense: str) -> jax.Array:
    """Mixes values so that the features of a patch describe that patch.

    Args:
      q: [..., T, heads, C].
      k: [..., T, heads, C].
      v: [..., T, heads, C].
      dense: "values" keeps each token's own value (MaskCLIP, arXiv 2112.01071). "self_similarity"
        attends by softmax(q q^T) + softmax(k k^T), not halved (SCLIP, arXiv 2312.01597).

    Returns:
      [..., T, heads, C].

    Raises:
      ValueError: another name.
    """
    if dense == "values":
        return v
    if dense == "self_similarity":
        weights = compute_attention_weights(q, q) + compute_attention_weights(k, k)
        mixed = jnp.einsum(
            "...hqk,...khc->...qhc", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return mixed.astype(v.dtype)
    raise ValueError(
        f"dense is {dense!r}; choose one of {', '.join(repr(name) for name in DENSE if name)}"
    )
