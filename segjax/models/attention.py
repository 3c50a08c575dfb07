"""One attention for every model, and SAM's decomposed relative positions folded into it.

The implementation is an explicit argument: code that is compiled here for another machine must not look at the
devices it happens to run on.
"""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.resize import resize_table

IMPLEMENTATIONS = ("xla", "chunked", "cudnn")
QUERY_CHUNK = 128  # queries a chunk scores at once: small enough for the scores to stay in a CPU core's cache


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    key_valid: jax.Array | None = None,
    scale: float | None = None,
    impl: str = "xla",
) -> jax.Array:
    """Softmax attention; scores and softmax in float32.

    Args:
      q: [..., Tq, heads, C]. Leading axes broadcast against those of k and v.
      k: [..., Tk, heads, C].
      v: [..., Tk, heads, Cv]; Cv may differ from C.
      key_valid: bool [..., Tk]; False keys are as if absent. A query must have at least one valid key.
      scale: multiplies the scores; C ** -0.5 when None.
      impl: "xla" scores all queries at once; "chunked" goes through them 128 at a time and never holds the whole score
        matrix; "cudnn" is the fused kernel of NVIDIA GPUs (half precision only).

    Returns:
      [..., Tq, heads, Cv].

    Raises:
      ValueError: unknown impl.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if impl == "xla":
        return _scored(q, k, v, key_valid, scale)
    if impl == "chunked":
        return _chunked(q, k, v, key_valid, scale)
    if impl == "cudnn":
        return _cudnn(q, k, v, key_valid, scale)
    raise ValueError(f"attention impl {impl!r} is unknown; choose one of {', '.join(IMPLEMENTATIONS)}")


def _scored(q, k, v, key_valid, scale):
    scores = jnp.einsum("...qhc,...khc->...hqk", q * scale, k, preferred_element_type=jnp.float32)
    if key_valid is not None:
        scores = jnp.where(key_valid[..., None, None, :], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("...hqk,...khc->...qhc", weights, v)


def _chunked(q, k, v, key_valid, scale):
    length = q.shape[-3]
    if length <= QUERY_CHUNK:
        return _scored(q, k, v, key_valid, scale)
    padding = -length % QUERY_CHUNK
    q = jnp.pad(q, [(0, 0)] * (q.ndim - 3) + [(0, padding), (0, 0), (0, 0)])
    chunks = jnp.moveaxis(q.reshape(*q.shape[:-3], -1, QUERY_CHUNK, *q.shape[-2:]), -4, 0)
    score = jax.checkpoint(lambda chunk: _scored(chunk, k, v, key_valid, scale))
    out = jnp.moveaxis(jax.lax.map(score, chunks), 0, -4)
    return out.reshape(*out.shape[:-4], length + padding, *out.shape[-2:])[..., :length, :, :]


def _cudnn(q, k, v, key_valid, scale):
    """cuDNN wants [B, T, heads, C] with one C for all three, a multiple of 8: narrower ones are padded with zeros."""
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


def fold_relative_positions(
    q: jax.Array, k: jax.Array, table_h: jax.Array, table_w: jax.Array, grid: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Moves SAM's decomposed relative positions into extra channels of q and k, so that no bias tensor is ever made.

    score = scale * q.k + q.R_h[row(q) - row(k)] + q.R_w[col(q) - col(k)] with the unscaled q. The last two are
    products of (q.R_h for every key row, q.R_w for every key column) with one-hot codes of the key's row and column:
    exact, and the attention stays a plain one, so that any fused kernel serves it. (SAM, section 2 of the
    supplement; ViTDet, arXiv 2203.16527.)

    Args:
      q, k: [..., h*w, heads, C].
      table_h, table_w: [L, C].
      grid: (h, w).

    Returns:
      q, k: [..., h*w, heads, C + h + w]; attend with scale = 1: q comes already scaled by C ** -0.5.
    """
    h, w = grid
    *lead, length, heads, channels = q.shape
    cells = q.reshape(*lead, h, w, heads, channels)
    by_row = jnp.einsum("...yxnc,ykc->...yxnk", cells, relative_positions(table_h, h).astype(q.dtype))
    by_column = jnp.einsum("...yxnc,xkc->...yxnk", cells, relative_positions(table_w, w).astype(q.dtype))
    rows = jnp.repeat(jnp.eye(h, dtype=k.dtype), w, axis=0)
    columns = jnp.tile(jnp.eye(w, dtype=k.dtype), (h, 1))
    codes = jnp.concatenate([rows, columns], axis=-1)[:, None, :]
    codes = jnp.broadcast_to(codes, (*k.shape[:-1], h + w))
    q = jnp.concatenate(
        [
            q * channels**-0.5,
            by_row.reshape(*lead, length, heads, h),
            by_column.reshape(*lead, length, heads, w),
        ],
        axis=-1,
    )
    return q, jnp.concatenate([k, codes], axis=-1)


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
