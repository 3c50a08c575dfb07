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


def box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU of every pair of boxes: [N, 4] and [M, 4] -> float32 [N, M]; 0 where both are empty."""
    low = jnp.maximum(a[:, None, :2], b[None, :, :2])
    high = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    union = box_area(a)[:, None] + box_area(b) - overlap
    return jnp.where(union > 0, overlap / jnp.where(union > 0, union, 1), 0)
