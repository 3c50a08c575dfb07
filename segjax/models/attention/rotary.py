"""Rotary positions (RoPE) of a grid of patches, as in DINOv3 (arXiv 2508.10104)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

BASE = 100.0


def make_periods(channels: int, base: float = BASE) -> np.ndarray:
    """Returns the periods of the rotations, float32 [channels / 4], from 1 to almost `base`.

    Published files hold their own periods, which are rounded to bfloat16.

    Args:
      channels: of an attention head, a multiple of 4.
      base: limit of the periods, in halves of the image.

    Raises:
      ValueError: `channels` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"heads of {channels} channels cannot rotate: expected a multiple of 4")
    return np.float32(base) ** (np.arange(channels // 4, dtype=np.float32) / (channels // 4))


def compute_rotation(grid: tuple[int, int], periods: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes sines and cosines of the angles of each patch.

    An angle is 2 pi * coordinate / period, with the coordinates of the centers of patches from -1
    to 1 along each axis.

    Args:
      grid: (h, w).
      periods: [C / 4], see `make_periods`.

    Returns:
      Two arrays float32 [h * w, C]. Channels: rows, columns, and both again.
    """
    rows, columns = ((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1 for n in grid)
    centers = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = 2 * math.pi * centers / periods.astype(jnp.float32)
    angles = jnp.tile(angles.reshape(len(centers), -1), (1, 2))
    return jnp.sin(angles), jnp.cos(angles)


def rotate_patches(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the queries or keys of patches. Tokens before them stay as they are.

    Args:
      x: [B, T, heads, C]. The last h * w tokens are the patches.
      rotation: see `compute_rotation`.

    Returns:
      An array of the same shape and dtype.
    """
    sine, cosine = (values[:, None] for values in rotation)
    prefix = x.shape[1] - len(sine)
    patches = x[:, prefix:].astype(jnp.float32)
    first, second = jnp.split(patches, 2, axis=-1)
    turned = patches * cosine + jnp.concatenate([-second, first], axis=-1) * sine
    return jnp.concatenate([x[:, :prefix], turned.astype(x.dtype)], axis=1)
