"""Area, overlap, encoding and decoding of boxes.

Boxes are x1 y1 x2 y2 in continuous coordinates. The box of the pixel columns a..b has x1 = a and
x2 = b + 1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Largest logarithm of a side divided by its anchor's that a published Mask R-CNN decodes.
MAX_LOG_SCALE = math.log(1000 / 16)


def box_area(boxes: jax.Array) -> jax.Array:
    """Computes the area of boxes [..., 4] in square pixels, [...]. Inverted boxes have area 0.

    The area is float32 for integers and for shorter floats, whose own type could not hold it.
    """
    boxes = jnp.asarray(boxes)
    boxes = boxes.astype(jnp.promote_types(boxes.dtype, jnp.float32))
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0) * jnp.maximum(
        boxes[..., 3] - boxes[..., 1], 0
    )


def check_box_shape(boxes: jax.Array) -> None:
    """Raises ValueError unless boxes are [R, 4]."""
    if boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise ValueError(
            f"boxes have shape {tuple(boxes.shape)}; expected [R, 4], x1 y1 x2 y2 of each region"
        )


def clip_boxes(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Clips boxes to their image.

    Args:
      boxes: [..., 4], pixels of the image.
      size: [..., 2], (height, width) of the image, broadcast against the boxes.

    Returns:
      [..., 4].
    """
    limit = jnp.concatenate([size[..., ::-1], size[..., ::-1]], axis=-1).astype(boxes.dtype)
    return jnp.clip(boxes, 0, limit)


def box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the intersection over union (IoU) of every pair of boxes.

    Example:
      >>> box_iou(jnp.array([[0, 0, 10, 10]]), jnp.array([[0, 0, 10, 5], [20, 0, 30, 5]])).tolist()
      [[0.5, 0.0]]

    Args:
      a: [N, 4].
      b: [M, 4].

    Returns:
      float32 [N, M], 0 if both boxes are empty.
    """
    a, b = _float32(a), _float32(b)
    overlap = _overlap(a, b)
    union = box_area(a)[:, None] + box_area(b) - overlap
    return jnp.where(union > 0, overlap / jnp.where(union > 0, union, 1), 0)


def box_ioa(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the share of each box of `b` that lies inside each box of `a`.

    Args:
      a: [N, 4].
      b: [M, 4].

    Returns:
      float32 [N, M], intersection over the area of `b`. 0 if the box of `b` is empty.
    """
    a, b = _float32(a), _float32(b)
    area = box_area(b)
    return jnp.where(area > 0, _overlap(a, b) / jnp.where(area > 0, area, 1), 0)


def encode_boxes(
    boxes: jax.Array, anchors: jax.Array, weights: tuple[float, ...] = (1, 1, 1, 1)
) -> jax.Array:
    """Encodes boxes relative to anchors (Girshick et al. 2014, appendix C).

    The inverse of `decode_boxes`.

    Example:
      >>> encode_boxes(jnp.array([10.0, 0, 20, 10]), jnp.array([0.0, 0, 10, 10])).tolist()
      [1.0, 0.0, 0.0, 0.0]

    Args:
      boxes: [..., 4].
      anchors: [..., 4], in the same frame.
      weights: factors of dx, dy, dw and dh.

    Returns:
      float32 [..., 4], dx dy dw dh: the offset of the center in sides of the anchor, and the
      logarithm of the sides divided by the anchor's. A side of length 0 (padding) counts as 1
      pixel, so that no infinite number has to be masked.
    """
    center, side = _center_and_side(_float32(boxes))
    anchor_center, anchor_side = _center_and_side(_float32(anchors))
    side, anchor_side = (jnp.where(length > 0, length, 1) for length in (side, anchor_side))
    weights = np.asarray(weights, np.float32)
    offset = weights[:2] * (center - anchor_center) / anchor_side
    return jnp.concatenate([offset, weights[2:] * jnp.log(side / anchor_side)], axis=-1)


def decode_boxes(
    deltas: jax.Array, anchors: jax.Array, weights: tuple[float, ...] = (1, 1, 1, 1)
) -> jax.Array:
    """Decodes box deltas into boxes.

    A side is at most 62.5 times the anchor's (`MAX_LOG_SCALE`), as in all published models.

    Example:
      >>> decode_boxes(jnp.array([1.0, 0, 0, 0]), jnp.array([0.0, 0, 10, 10])).tolist()
      [10.0, 0.0, 20.0, 10.0]

    Args:
      deltas: [..., 4], dx dy dw dh, of any float dtype. Computed in float32.
      anchors: [..., 4], broadcast against the deltas. For one box per class, use anchors [R, 1, 4]
        and deltas [R, K, 4].
      weights: as for `encode_boxes`.

    Returns:
      float32 [..., 4], x1 y1 x2 y2 in the frame of the anchors, not clipped.
    """
    deltas = _float32(deltas) / np.asarray(weights, np.float32)
    anchor_center, anchor_side = _center_and_side(_float32(anchors))
    center = deltas[..., :2] * anchor_side + anchor_center
    half = 0.5 * (jnp.exp(jnp.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * anchor_side)
    return jnp.concatenate([center - half, center + half], axis=-1)


def _float32(boxes: jax.Array) -> jax.Array:
    """Casts boxes to float32."""
    # At x = 1000 a bfloat16 has steps of 4 pixels, and an area overflows a float16.
    return jnp.asarray(boxes, jnp.float32)


def _center_and_side(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the centers and the sides of boxes, [..., 2] each."""
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * side, side


def _overlap(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the shared area of every pair of boxes: [N, 4] and [M, 4] to [N, M]."""
    low = jnp.maximum(a[:, None, :2], b[None, :, :2])
    high = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    return jnp.prod(jnp.maximum(high - low, 0), axis=-1)
