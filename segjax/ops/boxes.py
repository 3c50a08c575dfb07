"""Boxes are x1 y1 x2 y2, continuous pixel edges: the box of pixel columns a..b is x1 = a, x2 = b + 1."""

import jax
import jax.numpy as jnp


def box_area(boxes: jax.Array) -> jax.Array:
    """Area in square pixels: [..., 4] -> [...]; inverted boxes have none."""
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0) * jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)


def clip_boxes(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Boxes [..., 4] cut to an image whose (height, width) is size [..., 2]."""
    limit = jnp.concatenate([size[..., ::-1], size[..., ::-1]], axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, limit)
