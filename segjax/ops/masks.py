"""Pixelwise comparisons of masks."""

import jax
import jax.numpy as jnp


def mask_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of boolean masks [..., H, W] (broadcast) -> float32 [...]; 0 when both are empty."""
    a, b = a.astype(bool), b.astype(bool)
    intersection = jnp.sum(a & b, axis=(-2, -1), dtype=jnp.float32)
    union = jnp.sum(a | b, axis=(-2, -1), dtype=jnp.float32)
    return intersection / jnp.maximum(union, 1.0)


def content_mask(sizes: jax.Array, canvas: tuple[int, int]) -> jax.Array:
    """Pixels of the canvas that hold image, not padding.

    Args:
      sizes: int [B, 2], height and width of each image's content, which starts at the canvas's top left corner.
      canvas: (H, W).

    Returns:
      bool [B, H, W].
    """
    rows = jnp.arange(canvas[0]) < sizes[:, 0, None]
    columns = jnp.arange(canvas[1]) < sizes[:, 1, None]
    return rows[:, :, None] & columns[:, None, :]
