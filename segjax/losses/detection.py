"""The losses of Mask R-CNN (arXiv 1703.06870, section 3): of proposals, of classes and boxes, of masks, of keypoints.

Each gives sums, and what to divide them by where that is no matter of convention, so that pictures and devices are
divided by but once. Rows that are not valid count for nothing, and their gradients are exactly 0.
"""

import jax
import jax.numpy as jnp
import optax


def smooth_l1(difference: jax.Array, beta: float) -> jax.Array:
    """|d| - beta / 2, and d^2 / (2 beta) where |d| < beta (arXiv 1504.08083); plain |d| for a beta of 0."""
    size = jnp.abs(difference)
    if not beta:
        return size
    return jnp.where(size < beta, 0.5 * difference**2 / beta, size - 0.5 * beta)


def proposal_losses(
    logits: jax.Array,
    deltas: jax.Array,
    targets: jax.Array,
    positive: jax.Array,
    valid: jax.Array,
    beta: float,
) -> tuple[jax.Array, jax.Array]:
    """Sums over sampled anchors of the binary cross entropy, and of smooth L1 over the four deltas of positive ones.

    Args:
      logits: float32 [..., S]. deltas, targets: [..., S, 4]. positive, valid: bool [..., S].
    """
    scores = optax.sigmoid_binary_cross_entropy(logits, positive.astype(jnp.float32))
    boxes = smooth_l1(_only(deltas - targets, (positive & valid)[..., None]), beta)
    return jnp.sum(_only(scores, valid)), jnp.sum(boxes)


def region_losses(
    logits: jax.Array,
    deltas: jax.Array,
    targets: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    beta: float,
) -> tuple[jax.Array, jax.Array]:
    """Sums over sampled regions of the cross entropy, and of smooth L1 over the deltas of those that show an object.

    Args:
      logits: float32 [..., S, 1 + K], the background first. deltas: [..., S, K or 1, 4], of each class or of all.
      targets: [..., S, 4]. labels: int [..., S], 0 for the background. valid: bool [..., S].
    """
    classes = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    own = select_class(jnp.moveaxis(deltas, -2, -1), labels)
    boxes = smooth_l1(_only(own - targets, ((labels > 0) & valid)[..., None]), beta)
    return jnp.sum(_only(classes, valid)), jnp.sum(boxes)


def mask_loss(
    logits: jax.Array, targets: jax.Array, labels: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum over regions of the mean binary cross entropy of their own class's mask, and the number of these regions.

    Args:
      logits: float32 [..., F, m, m, K or 1]. targets: [..., F, m, m], 0 to 1. labels: int [..., F], 1..K.
      valid: bool [..., F]: the regions that show an object.
    """
    own = select_class(logits, labels)
    cells = optax.sigmoid_binary_cross_entropy(own, targets.astype(jnp.float32))
    return jnp.sum(_only(cells.mean(axis=(-2, -1)), valid)), jnp.sum(valid, dtype=jnp.float32)


def keypoint_loss(
    logits: jax.Array, cells: jax.Array, visible: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum over visible keypoints of the cross entropy of their place among all cells, and the number of keypoints.

    Args:
      logits: float32 [..., F, m, m, J]. cells: int [..., F, J], row * m + column. visible: bool [..., F, J], and inside
        of the region.
    """
    *lead, m, _, joints = logits.shape
    maps = jnp.moveaxis(logits.reshape(*lead, m * m, joints), -1, -2)
    losses = optax.softmax_cross_entropy_with_integer_labels(maps, jnp.where(visible, cells, 0))
    return jnp.sum(_only(losses, visible)), jnp.sum(visible, dtype=jnp.float32)


def select_class(values: jax.Array, labels: jax.Array) -> jax.Array:
    """[R, ..., K or 1] -> [R, ...]: what is said of class label - 1, or of all; for label 0 what is said of the first.

    Args:
      labels: int, of the first axes of `values`.
    """
    if values.shape[-1] == 1:
        return values[..., 0]
    index = jnp.maximum(labels - 1, 0).reshape(labels.shape + (1,) * (values.ndim - labels.ndim))
    return jnp.take_along_axis(values, jnp.broadcast_to(index, (*values.shape[:-1], 1)), axis=-1)[
        ..., 0
    ]


def _only(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Zeros for what is not valid, in the gradient too."""
    return jnp.where(valid, values, 0)
