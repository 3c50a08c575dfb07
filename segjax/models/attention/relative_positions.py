"""Decomposed relative positions: attention scores by the row and the column of a key."""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.resize import resize_table

# [..., Tq, heads, h] and [..., Tq, heads, w], see `compute_relative_scores`.
RelativeScores = tuple[jax.Array, jax.Array]


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
