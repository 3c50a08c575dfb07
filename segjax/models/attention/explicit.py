"""Attention whose scores are arrays: all at once, or a piece at a time."""

import math

import jax
import jax.numpy as jnp

# "chunked": number of queries of a long sequence in a piece, enough for a fast matrix product.
QUERY_CHUNK = 128
# "chunked": number of scores in a group of short sequences. They fit into a CPU core's cache.
SCORES_PER_GROUP = 2**18


def attend_at_once(per_query, per_key, valid, scale):
    """Computes attention with all scores at once.

    Args:
      per_query: "q" [..., Tq, C]. With relative positions "by_row" [..., Tq, h] and "by_column"
        [..., Tq, w]. With a causal mask "position" int32 [Tq, 1], the last key of each query.
      per_key: k [..., C, Tk] and v [..., Tk, Cv].
      valid: bool [..., 1, Tk] or None.
      scale: factor of the products.

    Returns:
      [..., Tq, Cv].
    """
    q, (k, v) = per_query["q"], per_key
    scores = jnp.einsum("...qc,...ck->...qk", q * scale, k, preferred_element_type=jnp.float32)
    # Relative scores of the rows and columns of keys
    if "by_row" in per_query:
        by_row, by_column = per_query["by_row"], per_query["by_column"]
        grid = (by_row.shape[-1], by_column.shape[-1])
        cells = (
            scores.reshape(*scores.shape[:-1], *grid)
            + by_row[..., :, None]
            + by_column[..., None, :]
        )
        scores = cells.reshape(scores.shape)
    if valid is not None:
        scores = jnp.where(valid, scores, -jnp.inf)
    if "position" in per_query:
        scores = jnp.where(per_query["position"] >= jnp.arange(k.shape[-1]), scores, -jnp.inf)
    # Softmax. The division comes after the product with v, which saves a pass over the scores.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum(
        "...qk,...kc->...qc", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (out / total).astype(v.dtype)


def attend_chunked(per_query, per_key, valid, scale, lead):
    """Computes attention piece by piece, so that the scores fit into a cache.

    A piece is a group of heads with short sequences, or a chunk of queries of one head.

    Args:
      per_query: as for `attend_at_once`.
      per_key: as for `attend_at_once`.
      valid: as for `attend_at_once`.
      scale: as for `attend_at_once`.
      lead: leading axes of the result, the heads last. If there are several, the first is the
        batch. A piece has the whole batch, because devices that share it would have to gather it
        otherwise.
    """
    length, keys = per_query["q"].shape[-2], per_key[0].shape[-1]
    # Sizes of a chunk of queries and of a group of heads
    chunk = length if length <= 2 * QUERY_CHUNK else QUERY_CHUNK
    batch = lead[0] if len(lead) > 1 else 1
    count = math.prod(lead[1:] if len(lead) > 1 else lead)
    largest = min(count, max(1, SCORES_PER_GROUP // (chunk * keys)))
    group = next(size for size in range(largest, 0, -1) if count % size == 0)

    def split_groups(x):
        """Splits [*lead, T, C] into [groups, batch, group, T, C]."""
        x = jnp.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(
            batch, count // group, group, *x.shape[-2:]
        )
        return jnp.moveaxis(x, 1, 0)

    def split_chunks(x):
        """Splits [*lead, T, C] into [groups, chunks, batch, group, chunk, C]."""
        x = jnp.pad(split_groups(x), [(0, 0), (0, 0), (0, 0), (0, -length % chunk), (0, 0)])
        return jnp.moveaxis(x.reshape(*x.shape[:3], x.shape[3] // chunk, chunk, x.shape[-1]), 3, 1)

    # Scores of a piece are computed again in the backward pass, so that none are stored
    def attend_group(inputs):
        per_query, *rest = inputs
        return jax.lax.map(
            jax.checkpoint(lambda piece: attend_at_once(piece, *rest, scale)), per_query
        )

    per_query = {name: split_chunks(x) for name, x in per_query.items()}
    per_key = [split_groups(x) for x in per_key]
    valid = None if valid is None else split_groups(valid)
    out = jax.lax.map(attend_group, (per_query, per_key, valid))
    # Back to the original axes, without the padding of the last chunk
    out = jnp.moveaxis(out, (2, 0, 3, 1), (0, 1, 2, 3))  # [batch, groups, group, chunks, chunk, Cv]
    return out.reshape(*lead, length + -length % chunk, out.shape[-1])[..., :length, :]
