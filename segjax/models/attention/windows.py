"""Window partition: attention within squares of a feature map."""

import jax
import jax.numpy as jnp


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
