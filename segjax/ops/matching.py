"""Assignment of ground truth to anchors and proposals, and balanced sampling.

See Faster R-CNN (arXiv 1506.01497, section 3.1.2) and Mask R-CNN (arXiv 1703.06870, section 3.1).
"""

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
    """Matches every anchor to its best ground truth and labels it by the overlap.

    With `force`, every ground-truth box also makes its best anchors positive, including ties,
    however small the overlap. Such an anchor keeps the ground truth that is best for it, as in the
    published implementations. A ground-truth box that overlaps no anchor forces none. (In those
    implementations it would force all anchors.)

    Args:
      iou: float32 [G, A], IoU of ground truth and anchors.
      valid: bool [G], False for padding, which is never matched.
      low: anchors with an IoU below it are negative.
      high: anchors with an IoU of at least this are positive. Those in between are ignored.
      force: apply the second rule. It is meant for anchors, not for proposals.
      ignored: bool [A], anchors that are not used as negatives, see `is_in_crowd`. Positive ones
        stay positive.

    Returns:
      index: int32 [A], the best ground truth, 0 if there is none.
      label: int32 [A], 1 positive, 0 negative, -1 ignored.
    """
    ground_truth, anchors = iou.shape
    if not ground_truth:
        index, best, forced = jnp.zeros(anchors, jnp.int32), jnp.full(anchors, -1.0), False
    else:
        # The barrier keeps XLA from computing a number twice with different rounding. The number
        # is compared with its own maximum below.
        iou = jax.lax.optimization_barrier(jnp.where(valid[:, None], iou, -1.0))
        index, best = jnp.argmax(iou, axis=0).astype(jnp.int32), jnp.max(iou, axis=0)
        best_of_gt = jnp.max(iou, axis=1, keepdims=True, initial=-1.0)
        forced = jnp.any((iou == best_of_gt) & (best_of_gt > 0), axis=0) if force else False
    # Between the thresholds, and for negatives inside of crowds: ignored
    negative = NEGATIVE if ignored is None else jnp.where(ignored, IGNORED, NEGATIVE)
    label = jnp.where(best < low, negative, IGNORED)
    return index, jnp.where((best >= high) | forced, POSITIVE, label).astype(jnp.int32)


def is_in_crowd(
    boxes: jax.Array, crowds: jax.Array, valid: jax.Array, share: float = 0.5
) -> jax.Array:
    """Tests if boxes lie in a crowd region (COCO's iscrowd).

    The objects of a crowd are not annotated one by one, so a detection there is not wrong.

    Args:
      boxes: [A, 4].
      crowds: [C, 4].
      valid: bool [C], False for padding.
      share: share of a box's area that must lie in one crowd.

    Returns:
      bool [A].
    """
    return jnp.any((box_ioa(crowds, boxes) >= share) & valid[:, None], axis=0)


def sample_balanced(
    key: jax.Array, label: jax.Array, count: int, positive_fraction: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Samples positives up to a share of the slots, and negatives for the others.

    Both are drawn uniformly and without replacement.

    Args:
      key: PRNG key of this image.
      label: int [A], from `match_boxes`: 1 positive, 0 negative. Others are never drawn.
      count: number of slots.
      positive_fraction: largest share of the slots for positives, rounded down.

    Returns:
      index: int32 [count] into `label`: positives, then negatives, then 0 in unfilled slots.
      valid: bool [count], False in unfilled slots.
      positive: bool [count].
    """
    anchors = label.shape[0]
    # Raw bits instead of uniform floats. Floats of 24 bits tie among that many anchors, and top_k
    # would then favor the first ones.
    noise = (jax.random.bits(key, (anchors,), jnp.uint32) >> 1).astype(jnp.int32)
    positives, negatives = min(int(count * positive_fraction), anchors), min(count, anchors)
    positive_noise, positive_index = jax.lax.top_k(
        jnp.where(label == POSITIVE, noise, -1), positives
    )
    negative_noise, negative_index = jax.lax.top_k(
        jnp.where(label == NEGATIVE, noise, -1), negatives
    )
    drawn = jnp.sum(positive_noise >= 0)
    # Samples stand at the front of either list. One entry behind both serves the unfilled slots.
    noise = jnp.concatenate([positive_noise, negative_noise, jnp.full(1, -1)])
    index = jnp.concatenate([positive_index, negative_index, jnp.zeros(1, jnp.int32)])
    slot = jnp.arange(count)
    source = jnp.where(slot < drawn, slot, slot - drawn + positives)
    source = jnp.minimum(source, positives + negatives)
    valid = noise[source] >= 0
    return jnp.where(valid, index[source], 0), valid, slot < drawn
