"""One attention for every model, with SAM's decomposed relative positions as an option of it.

The implementation is an explicit argument: code that is compiled here for another machine must not look at the
devices it happens to run on.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from segjax.models.tpu_attention import splash_attention, takes
from segjax.ops.resize import resize_table

IMPLEMENTATIONS = ("xla", "chunked", "cudnn", "pallas")
KERNEL_OF = {"cudnn": "gpu", "pallas": "tpu"}  # the devices that alone can run it
QUERY_CHUNK = 128  # queries of a long sequence that "chunked" scores at once: enough rows for a fast matrix product
SCORES_AT_ONCE = (
    2**18
)  # a group of short sequences has about as many scores: they stay in a CPU core's cache

Relative = tuple[
    jax.Array, jax.Array
]  # [..., Tq, heads, h] and [..., Tq, heads, w], see `relative_scores`


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    key_valid: jax.Array | None = None,
    scale: float | None = None,
    relative: Relative | None = None,
    impl: str = "xla",
) -> jax.Array:
    """Softmax attention; scores and softmax in float32.

    Args:
      q: [..., Tq, heads, C]. Leading axes broadcast against those of k and v.
      k: [..., Tk, heads, C].
      v: [..., Tk, heads, Cv]; Cv may differ from C.
      key_valid: bool [..., Tk]; False keys are as if absent. A query must have at least one valid key.
      scale: multiplies the products of q and k; C ** -0.5 when None.
      relative: scores of each query for the rows and for the columns of a grid of h*w = Tk keys, as `relative_scores`
        makes them; added to the scaled products.
      impl: "xla" scores all queries at once; "chunked" goes through heads and queries a few at a time and never holds
        the whole score matrix, which is fastest on CPUs; "cudnn" is the fused kernel of NVIDIA GPUs (half precision
        only); "pallas" is the fused kernel of TPUs if Tq and Tk are multiples of 128 and key_valid is None, else
        "xla": in windows of 14 x 14, say.

    Returns:
      [..., Tq, heads, Cv].

    Raises:
      ValueError: unknown impl.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if impl == "cudnn":
        return _cudnn(q, k, v, key_valid, scale, relative)
    if impl not in IMPLEMENTATIONS:
        raise ValueError(
            f"attention impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    if impl == "pallas" and key_valid is None and takes(q.shape[-3], k.shape[-3]):
        return _pallas(q, k, v, scale, relative)
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
    """q [..., Tq, C] and perhaps by_row [..., Tq, h] and by_column [..., Tq, w]; k [..., C, Tk], v [..., Tk, Cv]
    -> [..., Tq, Cv]."""
    (q, *relative), (k, v) = per_query, per_key
    scores = jnp.einsum("...qc,...ck->...qk", q * scale, k, preferred_element_type=jnp.float32)
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
    # Divided after the product with v: one pass less over the scores.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum(
        "...qk,...kc->...qc", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return (out / total).astype(v.dtype)


def _chunked(per_query, per_key, valid, scale, lead):
    """`_attend`, one piece after another: a few heads of short sequences, or a chunk of a long one of one head.

    lead: leading axes of the result, the heads last. The first of several is the batch's, and a piece has all of it:
    devices that share the batch would else have to gather it.
    """
    length, keys = per_query[0].shape[-2], per_key[0].shape[-1]
    chunk = length if length <= 2 * QUERY_CHUNK else QUERY_CHUNK
    batch = lead[0] if len(lead) > 1 else 1
    count = math.prod(lead[1:] if len(lead) > 1 else lead)
    at_once = min(count, max(1, SCORES_AT_ONCE // (chunk * keys)))
    group = next(size for size in range(at_once, 0, -1) if count % size == 0)

    def grouped(x):
        x = jnp.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(
            batch, count // group, group, *x.shape[-2:]
        )
        return jnp.moveaxis(x, 1, 0)

    def in_chunks(x):
        x = jnp.pad(grouped(x), [(0, 0), (0, 0), (0, 0), (0, -length % chunk), (0, 0)])
        return jnp.moveaxis(x.reshape(*x.shape[:3], x.shape[3] // chunk, chunk, x.shape[-1]), 3, 1)

    def attend_group(inputs):
        per_query, *rest = inputs
        return jax.lax.map(jax.checkpoint(lambda piece: _attend(piece, *rest, scale)), per_query)

    per_query, per_key = [in_chunks(x) for x in per_query], [grouped(x) for x in per_key]
    out = jax.lax.map(attend_group, (per_query, per_key, None if valid is None else grouped(valid)))
    out = jnp.moveaxis(out, (2, 0, 3, 1), (0, 1, 2, 3))  # [batch, groups, group, chunks, chunk, Cv]
    return out.reshape(*lead, length + -length % chunk, out.shape[-1])[..., :length, :]


def _cudnn(q, k, v, key_valid, scale, relative):
    """cuDNN wants [B, T, heads, C] with one C for all three, a multiple of 8: narrower ones are padded with zeros."""
    if relative is not None:
        q, k, scale = *fold_relative(q * scale, k, relative), 1.0
    lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3])
    width = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8

    def prepared(x):
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
        return jnp.broadcast_to(x, (*lead, *x.shape[-3:])).reshape(-1, *x.shape[-3:])

    mask = None
    if key_valid is not None:
        mask = jnp.broadcast_to(key_valid, (*lead, k.shape[-3])).reshape(-1, 1, 1, k.shape[-3])
    out = jax.nn.dot_product_attention(
        prepared(q), prepared(k), prepared(v), mask=mask, scale=scale, implementation="cudnn"
    )
    return out.reshape(*lead, *out.shape[-3:])[..., : v.shape[-1]]


def _pallas(q, k, v, scale, relative):
    """The kernel has no factor of its own, and examples on one axis: the batch's, which devices share, comes first."""
    q = q * scale
    if relative is not None:
        q, k = fold_relative(q, k, relative)
    lead = jnp.broadcast_shapes(q.shape[:-3], k.shape[:-3])
    flat = lambda x, own: jnp.broadcast_to(x, (*lead, *own)).reshape(math.prod(lead), *own)
    q, k, v = (flat(x, x.shape[-3:]) for x in (q, k, v))
    return splash_attention(q, k, v).reshape(*lead, *q.shape[-3:-1], v.shape[-1])


def relative_positions(table: jax.Array, size: int) -> jax.Array:
    """Rows of a relative-position table for every pair of positions along one axis.

    Args:
      table: [L, C]; L = 2 * size - 1 when it was made for this size, else it is resized linearly.
      size: positions along the axis, for queries and keys alike.

    Returns:
      [size, size, C]: entry (i, j) is the row of distance i - j.
    """
    table = resize_table(table, 2 * size - 1)
    index = np.arange(size)[:, None] - np.arange(size)[None, :] + size - 1
    return table[index]


def relative_scores(
    q: jax.Array, table_h: jax.Array, table_w: jax.Array, grid: tuple[int, int]
) -> Relative:
    """SAM's decomposed relative positions: what a query adds to its score for each row and each column of keys.

    score = scale * q.k + q.R_h[row(q) - row(k)] + q.R_w[column(q) - column(k)], with the unscaled q in the last two
    (SAM, section 2 of the supplement; ViTDet, arXiv 2203.16527). Only h + w numbers a query: the bias of h*w x h*w is
    never made.

    Args:
      q: [..., h*w, heads, C], unscaled.
      table_h, table_w: [L, C].
      grid: (h, w).

    Returns:
      by_row [..., h*w, heads, h] and by_column [..., h*w, heads, w], float32.
    """
    h, w = grid
    cells = q.reshape(*q.shape[:-3], h, w, *q.shape[-2:])
    rows, columns = (
        relative_positions(table, side).astype(q.dtype)
        for table, side in ((table_h, h), (table_w, w))
    )
    by_row = jnp.einsum("...yxnc,ykc->...yxnk", cells, rows, preferred_element_type=jnp.float32)
    by_column = jnp.einsum(
        "...yxnc,xkc->...yxnk", cells, columns, preferred_element_type=jnp.float32
    )
    return by_row.reshape(*q.shape[:-1], h), by_column.reshape(*q.shape[:-1], w)


def fold_relative(q: jax.Array, k: jax.Array, relative: Relative) -> tuple[jax.Array, jax.Array]:
    """Moves `relative_scores` into extra channels of q and k, so that a kernel of plain attention serves them.

    Products with one-hot codes of the key's row and column pick the right scores: exact.

    Args:
      q: [..., h*w, heads, C], already scaled. k: [..., h*w, heads, C].
      relative: by_row [..., h*w, heads, h] and by_column [..., h*w, heads, w].

    Returns:
      q, k: [..., h*w, heads, C + h + w]; attend with scale = 1.
    """
    h, w = (part.shape[-1] for part in relative)
    rows = jnp.repeat(jnp.eye(h, dtype=k.dtype), w, axis=0)
    columns = jnp.tile(jnp.eye(w, dtype=k.dtype), (h, 1))
    codes = jnp.concatenate([rows, columns], axis=-1)[:, None, :]
    codes = jnp.broadcast_to(codes, (*k.shape[:-1], h + w))
    relative = [part.astype(q.dtype) for part in relative]
    return jnp.concatenate([q, *relative], axis=-1), jnp.concatenate([k, codes], axis=-1)


def partition_windows(x: jax.Array, window: int) -> jax.Array:
    """[B, h, w, D] -> [B, rows*columns, window, window, D], zero-padded at the bottom and right to whole windows."""
    batch, h, w, depth = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % window), (0, -w % window), (0, 0)))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.reshape(batch, rows, window, columns, window, depth).swapaxes(2, 3)
    return x.reshape(batch, rows * columns, window, window, depth)


def merge_windows(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Inverse of `partition_windows`, padding cut off: [B, windows, n, n, D] -> [B, h, w, D]."""
    batch, _, window, _, depth = x.shape
    rows, columns = -(-grid[0] // window), -(-grid[1] // window)
    x = x.reshape(batch, rows, columns, window, window, depth).swapaxes(2, 3)
    return x.reshape(batch, rows * window, columns * window, depth)[:, : grid[0], : grid[1]]
