"""Attention of all models, with decomposed relative positions and window partition as options.

The implementation is an explicit argument, because a program may be compiled for other devices
than those of the machine that compiles it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.tpu_attention import splash_attention, supports_lengths
from segjax.ops.resize import resize_table

IMPLEMENTATIONS = ("xla", "chunked", "cudnn", "pallas")
KERNEL_PLATFORM = {
    "cudnn": "gpu",
    "pallas": "tpu",
}  # implementation -> the only platform that runs it
# "chunked": number of queries of a long sequence in a piece, enough for a fast matrix product.
QUERY_CHUNK = 128
# "chunked": number of scores in a group of short sequences. They fit into a CPU core's cache.
SCORES_PER_GROUP = 2**18

# [..., Tq, heads, h] and [..., Tq, heads, w], see `compute_relative_scores`.
RelativeScores = tuple[jax.Array, jax.Array]


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    key_valid: jax.Array | None = None,
    scale: float | None = None,
    relative: RelativeScores | None = None,
    impl: str = "xla",
) -> jax.Array:
    """Computes multi-head softmax attention, softmax(scale * q k^T + relative) v.

    Scores and softmax are float32.

    Example:
      >>> q = k = v = jnp.ones((2, 5, 4, 8))          # 2 images, 5 tokens, 4 heads, 8 channels
      >>> attention(q, k, v).shape
      (2, 5, 4, 8)

    Args:
      q: [..., Tq, heads, C]. Leading axes broadcast against those of k and v.
      k: [..., Tk, heads, C].
      v: [..., Tk, heads, Cv]. Cv may differ from C.
      key_valid: bool [..., Tk]. Invalid keys are ignored. Each query needs at least one valid key.
      scale: factor of the products of q and k. None: C ** -0.5.
      relative: scores of each query for the rows and for the columns of a grid of h*w = Tk keys,
        see `compute_relative_scores`. They are added to the scaled products.
      impl: implementation.
        "xla" computes all scores at once.
        "chunked" computes the scores of a few heads and queries at a time, and is fastest on CPUs.
        "cudnn" is the fused kernel of NVIDIA GPUs, for half precision.
        "pallas" is the fused kernel of TPUs if Tq and Tk are multiples of 128 and key_valid is
        None. Else, for example in windows of 14 x 14, it is "xla".

    Returns:
      [..., Tq, heads, Cv].

    Raises:
      ValueError: unknown implementation.
    """
    # Fused kernels
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if impl == "cudnn":
        return _cudnn(q, k, v, key_valid, scale, relative)
    if impl not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    if impl == "pallas" and key_valid is None and supports_lengths(q.shape[-3], k.shape[-3]):
        return _pallas(q, k, v, scale, relative)

    # Heads before tokens: queries [..., heads, Tq, C], keys [..., heads, C, Tk]
    lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3])
    per_query = [jnp.swapaxes(x, -2, -3) for x in (q, *(relative or ()))]
    per_key = [jnp.moveaxis(k, -3, -1), jnp.swapaxes(v, -2, -3)]
    valid = None if key_valid is None else key_valid[..., None, None, :]
    if impl == "chunked":
        out = _chunked(per_query, per_key, valid, scale, (*lead, q.shape[-2]))
    else:
        out = _attend(per_query, per_key, valid, scale)
    return jnp.swapaxes(out, -2, -3)


def _attend(per_query, per_key, valid, scale):
    """Computes attention with all scores at once.

    Args:
      per_query: q [..., Tq, C], and with relative positions by_row [..., Tq, h] and by_column
        [..., Tq, w].
      per_key: k [..., C, Tk] and v [..., Tk, Cv].
      valid: bool [..., 1, Tk] or None.
      scale: factor of the products.

    Returns:
      [..., Tq, Cv].
    """
    (q, *relative), (k, v) = per_query, per_key
    scores = jnp.einsum("...qc,...ck->...qk", q * scale, k, preferred_element_type=jnp.float32)
    # Relative scores of the rows and columns of keys
    if relative:
        by_row, by_column = relative
        grid = (by_row.shape[-1], by_column.shape[-1])
        cells = (
            scores.reshape(*scores.shape[:-1], *grid)
            + by_row[..., :, None]
            + by_column[..., None, :]
        )
        scores = cells.reshape(scores.shape)
    if valid is not None:
        scores = jnp.where(valid, scores, -jnp.inf)
    # Softmax. The division comes after the product with v, which saves a pass over the scores.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum(
        "...qk,...kc->...qc", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (out / total).astype(v.dtype)


def _chunked(per_query, per_key, valid, scale, lead):
    """Computes attention piece by piece, so that the scores fit into a cache.

    A piece is a group of heads with short sequences, or a chunk of queries of one head.

    Args:
      per_query: as for `_attend`.
      per_key: as for `_attend`.
      valid: as for `_attend`.
      scale: as for `_attend`.
      lead: leading axes of the result, the heads last. If there are several, the first is the
        batch. A piece has the whole batch, because devices that share it would have to gather it
        otherwise.
    """
    length, keys = per_query[0].shape[-2], per_key[0].shape[-1]
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
        return jax.lax.map(jax.checkpoint(lambda piece: _attend(piece, *rest, scale)), per_query)

    per_query = [split_chunks(x) for x in per_query]
    per_key = [split_groups(x) for x in per_key]
    valid = None if valid is None else split_groups(valid)
    out = jax.lax.map(attend_group, (per_query, per_key, valid))
    # Back to the original axes, without the padding of the last chunk
    out = jnp.moveaxis(out, (2, 0, 3, 1), (0, 1, 2, 3))  # [batch, groups, group, chunks, chunk, Cv]
    return out.reshape(*lead, length + -length % chunk, out.shape[-1])[..., :length, :]


def _cudnn(q, k, v, key_valid, scale, relative):
    """Computes attention by cuDNN's fused kernel.

    cuDNN expects [B, T, heads, C], with the same C for q, k and v, a multiple of 8. Narrower arrays
    are padded with zeros.
    """
    if relative is not None:
        q, k, scale = *fold_relative_scores(q * scale, k, relative), 1.0
    lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3])
    width = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8

    def pad_channels(x):
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
        return jnp.broadcast_to(x, (*lead, *x.shape[-3:])).reshape(-1, *x.shape[-3:])

    # The mask broadcasts over heads and queries
    mask = None
    if key_valid is not None:
        mask = jnp.broadcast_to(key_valid, (*lead, k.shape[-3])).reshape(-1, 1, 1, k.shape[-3])
    out = jax.nn.dot_product_attention(
        pad_channels(q),
        pad_channels(k),
        pad_channels(v),
        mask=mask,
        scale=scale,
        implementation="cudnn",
    )
    return out.reshape(*lead, *out.shape[-3:])[..., : v.shape[-1]]


def _pallas(q, k, v, scale, relative):
    """Computes attention by the fused kernel of TPUs, which has no scale and one leading axis.

    The batch, which devices share, comes first on that axis.
    """
    q = q * scale
    if relative is not None:
        q, k = fold_relative_scores(q, k, relative)
    lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3])
    flat = lambda x, own: jnp.broadcast_to(x, (*lead, *own)).reshape(math.prod(lead), *own)
    q, k, v = (flat(x, x.shape[-3:]) for x in (q, k, v))
    return splash_attention(q, k, v).reshape(*lead, *q.shape[-3:-1], v.shape[-1])


def lookup_relative_positions(table: jax.Array, size: int) -> jax.Array:
    """Returns the relative position embedding of every pair of positions along one axis.

    Args:
      table: [L, C]. If L is not 2 * size - 1, the table is resized linearly.
      size: number of positions of queries and of keys.

    Returns:
      [size, size, C]. Entry (i, j) is the row of distance i - j.
    """
    table = resize_table(table, 2 * size - 1)
    # Row i - j + size - 1 of the table belongs to distance i - j
    index = np.arange(size)[:, None] - np.arange(size)[None, :] + size - 1
    return table[index]


def compute_relative_scores(
    q: jax.Array, table_h: jax.Array, table_w: jax.Array, grid: tuple[int, int]
) -> RelativeScores:
    """Computes the scores of decomposed relative positions.

    score = scale * q.k + q.R_h[row(q) - row(k)] + q.R_w[column(q) - column(k)], with the unscaled q
    in the last two terms (ViTDet, arXiv 2203.16527; SAM, arXiv 2304.02643, appendix A). A query has
    h + w such numbers. The whole bias [h*w, h*w] is never computed.

    Example:
      >>> tables = [jnp.zeros((2 * side - 1, 8)) for side in (3, 4)]
      >>> by_row, by_column = compute_relative_scores(jnp.ones((12, 2, 8)), *tables, grid=(3, 4))
      >>> by_row.shape, by_column.shape
      ((12, 2, 3), (12, 2, 4))

    Args:
      q: [..., h*w, heads, C], unscaled.
      table_h: [L, C], relative positions of rows. L = 2 * h - 1, or it is resized.
      table_w: [L, C], relative positions of columns.
      grid: (h, w).

    Returns:
      by_row: float32 [..., h*w, heads, h], the score of a query for each row of keys.
      by_column: float32 [..., h*w, heads, w], the score of a query for each column of keys.
    """
    h, w = grid
    cells = q.reshape(*q.shape[:-3], h, w, *q.shape[-2:])
    rows, columns = (
        lookup_relative_positions(table, side).astype(q.dtype)
        for table, side in ((table_h, h), (table_w, w))
    )
    by_row = jnp.einsum("...yxnc,ykc->...yxnk", cells, rows, preferred_element_type=jnp.float32)
    by_column = jnp.einsum(
        "...yxnc,xkc->...yxnk", cells, columns, preferred_element_type=jnp.float32
    )
    return by_row.reshape(*q.shape[:-1], h), by_column.reshape(*q.shape[:-1], w)


def fold_relative_scores(
    q: jax.Array, k: jax.Array, relative: RelativeScores
) -> tuple[jax.Array, jax.Array]:
    """Moves relative scores into further channels of q and k, for kernels of plain attention.

    The new channels of k are one-hot codes of the key's row and column. Their product with the new
    channels of q is the score of that row and column, exactly.

    Args:
      q: [..., h*w, heads, C], already scaled.
      k: [..., h*w, heads, C].
      relative: by_row and by_column of `compute_relative_scores`.

    Returns:
      q: [..., h*w, heads, C + h + w].
      k: [..., h*w, heads, C + h + w]. Attend with scale 1.
    """
    h, w = (part.shape[-1] for part in relative)
    # One-hot codes of rows and columns
    rows = jnp.repeat(jnp.eye(h, dtype=k.dtype), w, axis=0)
    columns = jnp.tile(jnp.eye(w, dtype=k.dtype), (h, 1))
    codes = jnp.concatenate([rows, columns], axis=-1)[:, None, :]
    codes = jnp.broadcast_to(codes, (*k.shape[:-1], h + w))
    relative = [part.astype(q.dtype) for part in relative]
    return jnp.concatenate([q, *relative], axis=-1), jnp.concatenate([k, codes], axis=-1)


def partition_windows(x: jax.Array, window: int) -> jax.Array:
    """Window partition: splits a map into windows, zero-padded at the bottom and right.

    Args:
      x: [B, h, w, D].
      window: side of a window in cells.

    Returns:
      [B, rows * columns, window, window, D], windows counted row by row.
    """
    batch, h, w, depth = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % window), (0, -w % window), (0, 0)))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.reshape(batch, rows, window, columns, window, depth).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, window, window, depth)


def unpartition_windows(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Window unpartition: joins the windows of `partition_windows` and removes the padding.

    Args:
      x: [B, windows, window, window, D].
      grid: (h, w) of the map.

    Returns:
      [B, h, w, D].
    """
    batch, _, window, _, depth = x.shape
    rows, columns = -(-grid[0] // window), -(-grid[1] // window)
    x = x.reshape(batch, rows, columns, window, window, depth).swapaxes(2, 3)
    return x.reshape(batch, rows * window, columns * window, depth)[:, : grid[0], : grid[1]]
