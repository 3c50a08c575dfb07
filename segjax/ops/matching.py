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
      ignored: bool [A], not to be trained on as a negative, see `is_in_crowd`. Positives stay so.

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


def is_in_crowd(
    boxes: jax.Array, crowds: jax.Array, valid: jax.Array, share: float = 0.5
) -> jax.Array:
    """Boxes that lie in a region of objects which nobody told apart (COCO's iscrowd): what is found there is not wrong.

    Args:
      boxes: [A, 4]. crowds: [C, 4]. valid: bool [C], others are padding.
      share: of a box's area that must lie in one crowd.

    Returns:
      bool [A].
    """
    return jnp.any((box_ioa(crowds, boxes) >= share) & valid[:, None], axis=0)


def sample_balanced(
    key: jax.Array, label: jax.Array, count: int, positive_fraction: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws positives up to a share of the places and negatives for the rest, each uniformly, none twice.

    Args:
      key: PRNG key of this image.
      label: int [A], from `match_boxes`: 1 positive, 0 negative, others are never drawn.
      count: places.
      positive_fraction: of them that positives may take at most, rounded down; negatives fill what is left.

    Returns:
      index: int32 [count] into label. Positives come first, then negatives, then places that are not filled (0).
      valid: bool [count], False in places that are not filled.
      positive: bool [count].
    """
    anchors = label.shape[0]
    # Raw bits, not float uniforms: 24-bit floats tie among this many, and top_k then favours the first.
    noise = (jax.random.bits(key, (anchors,), jnp.uint32) >> 1).astype(jnp.int32)
    positives, negatives = min(int(count * positive_fraction), anchors), min(count, anchors)
    positive_noise, positive_index = jax.lax.top_k(
        jnp.where(label == POSITIVE, noise, -1), positives
    )
    negative_noise, negative_index = jax.lax.top_k(
        jnp.where(label == NEGATIVE, noise, -1), negatives
    )
    found = jnp.sum(positive_noise >= 0)
    # What was drawn of either stands at the front of its list; one entry behind both stands for places left over.
    noise = jnp.concatenate([positive_noise, negative_noise, jnp.full(1, -1)])
    index = jnp.concatenate([positive_index, negative_index, jnp.zeros(1, jnp.int32)])
    place = jnp.arange(count)
    source = jnp.where(place < found, place, place - found + positives)
    source = jnp.minimum(source, positives + negatives)
    valid = noise[source] >= 0
    return jnp.where(valid, index[source], 0), valid, place < found
