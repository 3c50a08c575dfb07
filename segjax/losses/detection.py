"""Losses of Mask R-CNN (arXiv 1703.06870, section 3) for proposals, regions, masks and keypoints.

Each function returns a sum. If the libraries agree on the divisor, it returns that too. The caller
divides once, after it has added up images and devices. Rows that are not valid do not count, and
their gradients are exactly 0.
"""

import jax
import jax.numpy as jnp
import optax

UNKNOWN_STUFF = 255  # label of pixels of no known class, as in `segjax.data.records`


def smooth_l1(difference: jax.Array, beta: float) -> jax.Array:
    """Computes the smooth L1 loss (arXiv 1504.08083, equation 3) of each element.

    It is d^2 / (2 beta) for |d| < beta, and |d| - beta / 2 otherwise.

    Example:
      >>> smooth_l1(jnp.array([0.5, -2.0]), beta=1.0).tolist()
      [0.125, 1.5]

    Args:
      difference: d, float of any shape.
      beta: where the loss turns from quadratic to linear. 0 gives plain L1.

    Returns:
      An array like `difference`.
    """
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
    """Computes the objectness and box losses of sampled anchors.

    Example:
      >>> positive, valid = jnp.array([True, False]), jnp.array([True, True])
      >>> deltas, targets = jnp.zeros((2, 4)), jnp.ones((2, 4))
      >>> scores, boxes = proposal_losses(jnp.zeros(2), deltas, targets, positive, valid, beta=0.0)
      >>> float(boxes)
      4.0

    Args:
      logits: float32 [..., S], objectness logits.
      deltas: float32 [..., S, 4], predicted box deltas.
      targets: float32 [..., S, 4], deltas of the matched ground truth.
      positive: bool [..., S], anchors that show an object.
      valid: bool [..., S], False in unfilled slots.
      beta: of `smooth_l1`.

    Returns:
      scores: sum of the binary cross-entropy over valid anchors.
      boxes: sum of the smooth L1 loss over the deltas of positive anchors.
    """
    scores = optax.sigmoid_binary_cross_entropy(logits, positive.astype(jnp.float32))
    boxes = smooth_l1(_keep_valid(deltas - targets, (positive & valid)[..., None]), beta)
    return jnp.sum(_keep_valid(scores, valid)), jnp.sum(boxes)


def region_losses(
    logits: jax.Array,
    deltas: jax.Array,
    targets: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    beta: float,
) -> tuple[jax.Array, jax.Array]:
    """Computes the classification and box losses of sampled regions.

    Example:
      >>> labels, valid = jnp.array([2, 0]), jnp.array([True, True])
      >>> deltas, targets = jnp.zeros((2, 3, 4)), jnp.ones((2, 4))
      >>> _, boxes = region_losses(jnp.zeros((2, 4)), deltas, targets, labels, valid, beta=0.0)
      >>> float(boxes)
      4.0

    Args:
      logits: float32 [..., S, 1 + K], class logits, the background first.
      deltas: float32 [..., S, K or 1, 4], box deltas per class, or one for all classes.
      targets: float32 [..., S, 4], deltas of the matched ground truth.
      labels: int [..., S], 1..K, 0 for the background.
      valid: bool [..., S], False in unfilled slots.
      beta: of `smooth_l1`.

    Returns:
      classes: sum of the cross-entropy over valid regions.
      boxes: sum of the smooth L1 loss over the deltas of regions that show an object.
    """
    classes = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    # Only the box of a region's own class is trained.
    own = select_class(jnp.moveaxis(deltas, -2, -1), labels)
    boxes = smooth_l1(_keep_valid(own - targets, ((labels > 0) & valid)[..., None]), beta)
    return jnp.sum(_keep_valid(classes, valid)), jnp.sum(boxes)


def mask_loss(
    logits: jax.Array, targets: jax.Array, labels: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the mask loss of regions: the binary cross-entropy of their own class's mask.

    Example:
      >>> logits, targets = jnp.zeros((1, 2, 2, 3)), jnp.ones((1, 2, 2))
      >>> total, count = mask_loss(logits, targets, jnp.array([2]), jnp.array([True]))
      >>> round(float(total / count), 4)
      0.6931

    Args:
      logits: float32 [..., F, m, m, K or 1], mask logits per class, or one for all classes.
      targets: [..., F, m, m], 0 to 1.
      labels: int [..., F], 1..K.
      valid: bool [..., F], regions that show an object.

    Returns:
      total: sum over valid regions of the mean over a mask's cells.
      count: number of valid regions, float32.
    """
    # Classes do not compete for the pixels of a mask: only the own class's mask is trained.
    own = select_class(logits, labels)
    cells = optax.sigmoid_binary_cross_entropy(own, targets.astype(jnp.float32))
    return jnp.sum(_keep_valid(cells.mean(axis=(-2, -1)), valid)), jnp.sum(valid, dtype=jnp.float32)


def keypoint_loss(
    logits: jax.Array, cells: jax.Array, visible: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the keypoint loss: the cross-entropy of a keypoint's cell among all cells.

    Example:
      >>> total, count = keypoint_loss(
      ...     jnp.zeros((1, 2, 2, 1)), jnp.array([[3]]), jnp.array([[True]])
      ... )
      >>> round(float(total / count), 4)  # log(4)
      1.3863

    Args:
      logits: float32 [..., F, m, m, J], heatmap logits.
      cells: int [..., F, J], row * m + column.
      visible: bool [..., F, J], True for known keypoints inside the region.

    Returns:
      total: sum over visible keypoints.
      count: number of visible keypoints, float32.
    """
    *lead, m, _, joints = logits.shape
    # One softmax over all cells of each heatmap
    maps = jnp.moveaxis(logits.reshape(*lead, m * m, joints), -1, -2)
    losses = optax.softmax_cross_entropy_with_integer_labels(maps, jnp.where(visible, cells, 0))
    return jnp.sum(_keep_valid(losses, visible)), jnp.sum(visible, dtype=jnp.float32)


def stuff_loss(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the loss of a semantic branch: the cross-entropy of each known pixel.

    Example:
      >>> total, count = stuff_loss(jnp.zeros((1, 1, 2, 4)), jnp.array([[[3, 255]]]))
      >>> round(float(total), 4), float(count)  # log(4)
      (1.3863, 1.0)

    Args:
      logits: float32 [B, H, W, 1 + S], class logits, the one of all things first.
      labels: int [B, H, W], 1..S, 0 on things, `UNKNOWN_STUFF` where unknown.

    Returns:
      total: sum over known pixels.
      count: number of known pixels, float32.
    """
    known = labels != UNKNOWN_STUFF
    classes = jnp.where(known, labels, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    return jnp.sum(_keep_valid(losses, known)), jnp.sum(known, dtype=jnp.float32)


def select_class(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Selects the values of each region's own class.

    Args:
      values: [R, ..., K or 1], values per class, or one for all classes.
      labels: int [R], or of several leading axes, 1..K. Label 0 selects the first class.

    Returns:
      [R, ...].
    """
    if values.shape[-1] == 1:
        return values[..., 0]
    index = jnp.maximum(labels - 1, 0).reshape(labels.shape + (1,) * (values.ndim - labels.ndim))
    return jnp.take_along_axis(values, jnp.broadcast_to(index, (*values.shape[:-1], 1)), axis=-1)[
        ..., 0
    ]


def _keep_valid(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns the values, with zeros where they are not valid. Their gradients are 0, too."""
    return jnp.where(valid, values, 0)
