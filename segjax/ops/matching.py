"""Which ground truth an anchor or a proposal is trained on (Faster R-CNN, section 3.1.2; Mask R-CNN, section 3.1)."""

import jax
import jax.numpy as jnp

from segjax.ops.boxes import box_ioa

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match_boxes(
    iou: jax.Array,
    valid: jax.Array,
    low: float,
    high: float,
    force: bool,
    ignored: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The best ground truth of every anchor, and what that makes of the anchor.

    With `force` each ground truth also makes its best anchors positive, all that tie, however low their overlap; such
    an anchor keeps the ground truth that is the best for it, as the published implementations have it. Ground truth
    that overlaps no anchor forces none (there, it would force all that it does not overlap).

    Args:
      iou: [G, A], of ground truth and anchors.
      valid: bool [G]; others (padding) neither match nor force.
      low: an overlap below it makes a negative. high: from it on, a positive; what is between is ignored.
      force: see above; for anchors, not for proposals.
      ignored: bool [A], not to be trained on as a negative, see `in_crowd`. Positives stay so.

    Returns:
      index: int32 [A], the best ground truth; 0 where there is none.
      label: int32 [A], 1 positive, 0 negative, -1 ignored.
    """
    ground_truth, anchors = iou.shape
    if not ground_truth:
        index, best, forced = jnp.zeros(anchors, jnp.int32), jnp.full(anchors, -1.0), False
    else:
        # The barrier: compared with its own maximum, a number must not be worked out twice, with two roundings.
        iou = jax.lax.optimization_barrier(jnp.where(valid[:, None], iou, -1.0))
        index, best = jnp.argmax(iou, axis=0).astype(jnp.int32), jnp.max(iou, axis=0)
        favourite = jnp.max(iou, axis=1, keepdims=True, initial=-1.0)
        forced = jnp.any((iou == favourite) & (favourite > 0), axis=0) if force else False
    negative = NEGATIVE if ignored is None else jnp.where(ignored, IGNORED, NEGATIVE)
    label = jnp.where(best < low, negative, IGNORED)
    return index, jnp.where((best >= high) | forced, POSITIVE, label).astype(jnp.int32)


def in_crowd(boxes: jax.Array, crowds: jax.Array, valid: jax.Array, share: float = 0.5) -> jax.Array:
    """Boxes that lie in a region of objects which nobody told apart (COCO's iscrowd): what is found there is not wrong.

    Args:
      boxes: [A, 4]. crowds: [C, 4]. valid: bool [C], others are padding.
      share: of a box's area that must lie in one crowd.

    Returns:
      bool [A].
    """
    return jnp.any((box_ioa(crowds, boxes) >= share) & valid[:, None], axis=0)
