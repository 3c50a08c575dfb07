"""Pixelwise operations on masks: IoU, content of a canvas, and random points in a region."""

import jax
import jax.numpy as jnp


def mask_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the intersection over union of masks.

    Example:
      >>> mask_iou(jnp.array([[1, 1, 0]]), jnp.array([[0, 1, 1]]))
      Array(0.33333334, dtype=float32)

    Args:
      a: bool [..., H, W].
      b: bool [..., H, W]. Leading axes broadcast against those of `a`.

    Returns:
      float32 [...]. It is 0 if both masks are empty.
    """
    a, b = a.astype(bool), b.astype(bool)
    intersection = jnp.sum(a & b, axis=(-2, -1), dtype=jnp.float32)
    union = jnp.sum(a | b, axis=(-2, -1), dtype=jnp.float32)
    return intersection / jnp.maximum(union, 1.0)


def make_content_mask(sizes: jax.Array, canvas: tuple[int, int]) -> jax.Array:
    """Marks the pixels of the canvas that hold image, not padding.

    Args:
      sizes: int [B, 2], height and width of each image's content. The content starts at the top
        left corner of the canvas.
      canvas: (H, W), in pixels.

    Returns:
      bool [B, H, W].
    """
    rows = jnp.arange(canvas[0]) < sizes[:, 0, None]
    columns = jnp.arange(canvas[1]) < sizes[:, 1, None]
    return rows[:, :, None] & columns[:, None, :]


def sample_in_region(key: jax.Array, region: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws one cell of each region. Every cell of a region is equally likely.

    It takes the argmax of random numbers over the region, which has no branches and is exact for
    any shape of region. sam2's training code samples points in the same way.

    Args:
      key: PRNG key. Regions draw independently.
      region: bool [..., H, W].

    Returns:
      xy: float32 [..., 2], (column, row) of the cell, or (0, 0) if the region is empty.
      found: bool [...], False if the region is empty.
    """
    *lead, height, width = region.shape
    flat = region.reshape(*lead, height * width)
    # Raw bits instead of float uniforms: floats have 24 random bits, so they tie within large
    # regions, and argmax would prefer the first cell.
    noise = jax.random.bits(key, flat.shape, jnp.uint32) >> 1
    index = jnp.argmax(jnp.where(flat, noise.astype(jnp.int32), -1), axis=-1)
    xy = jnp.stack([index % width, index // width], axis=-1).astype(jnp.float32)
    return xy, jnp.any(flat, axis=-1)
