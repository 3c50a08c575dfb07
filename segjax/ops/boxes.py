"""Boxes are x1 y1 x2 y2, continuous pixel edges: the box of pixel columns a..b is x1 = a, x2 = b + 1."""

import math

import jax
import jax.numpy as jnp
import numpy as np

MAX_LOG_SCALE = math.log(
    1000 / 16
)  # of a side, over its anchor's: what every Mask R-CNN decodes at most


def box_area(boxes: jax.Array) -> jax.Array:
    """Area in square pixels: [..., 4] -> [...]; inverted boxes have none."""
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0) * jnp.maximum(
        boxes[..., 3] - boxes[..., 1], 0
    )


def clip_boxes(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Boxes [..., 4] cut to an image whose (height, width) is size [..., 2]."""
    limit = jnp.concatenate([size[..., ::-1], size[..., ::-1]], axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, limit)


def box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU of every pair of boxes: [N, 4] and [M, 4] -> float32 [N, M]; 0 where both are empty."""
    a, b = _float32(a), _float32(b)
    overlap = _overlap(a, b)
    union = box_area(a)[:, None] + box_area(b) - overlap
    return jnp.where(union > 0, overlap / jnp.where(union > 0, union, 1), 0)


def box_ioa(a: jax.Array, b: jax.Array) -> jax.Array:
    """Share of each box of b that lies in each box of a: [N, 4] and [M, 4] -> float32 [N, M]; 0 where b is empty."""
    a, b = _float32(a), _float32(b)
    area = box_area(b)
    return jnp.where(area > 0, _overlap(a, b) / jnp.where(area > 0, area, 1), 0)


def encode_boxes(
    boxes: jax.Array, anchors: jax.Array, weights: tuple[float, ...] = (1, 1, 1, 1)
) -> jax.Array:
    """Boxes as seen from anchors (Girshick et al. 2014, appendix C): the inverse of `decode_boxes`.

    Args:
      boxes: [..., 4]. anchors: [..., 4], in the same frame.
      weights: of x, y, width and height: the numbers are multiplied with them.

    Returns:
      float32 [..., 4]: offset of the centre in anchor sides, logarithm of the sides over the anchor's. Of a box or
      anchor without extent (padding) a side counts as 1 pixel, so that there is no infinite number to be masked.
    """
    centre, side = _centre_and_side(_float32(boxes))
    anchor_centre, anchor_side = _centre_and_side(_float32(anchors))
    side, anchor_side = (jnp.where(length > 0, length, 1) for length in (side, anchor_side))
    weights = np.asarray(weights, np.float32)
    offset = weights[:2] * (centre - anchor_centre) / anchor_side
    return jnp.concatenate([offset, weights[2:] * jnp.log(side / anchor_side)], axis=-1)


def decode_boxes(
    deltas: jax.Array, anchors: jax.Array, weights: tuple[float, ...] = (1, 1, 1, 1)
) -> jax.Array:
    """What a box head says of anchors, as boxes in the anchors' frame.

    Sides grow to 62.5 times the anchor's at most (`MAX_LOG_SCALE`), as in all published models.

    Args:
      deltas: [..., 4], of any float type; worked out in float32.
      anchors: [..., 4], broadcast against deltas: [R, 1, 4] for deltas [R, K, 4] of one box a class.
      weights: see `encode_boxes`.

    Returns:
      float32 [..., 4], not clipped to any image.
    """
    deltas = _float32(deltas) / np.asarray(weights, np.float32)
    anchor_centre, anchor_side = _centre_and_side(_float32(anchors))
    centre = deltas[..., :2] * anchor_side + anchor_centre
    half = 0.5 * (jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * anchor_side)
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def _float32(boxes: jax.Array) -> jax.Array:
    """At x = 1000 a bfloat16 is 4 pixels wide and an area overflows a float16."""
    return jnp.asarray(boxes, jnp.float32)


def _centre_and_side(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side


def _overlap(a: jax.Array, b: jax.Array) -> jax.Array:
    """Area that two boxes share, of every pair: [N, 4] and [M, 4] -> [N, M]."""
    low = jnp.maximum(a[:, None, :2], b[None, :, :2])
    high = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    return jnp.prod(jnp.maximum(high - low, 0), axis=-1)
