"""Non-maximum suppression with static shapes and without a loop over boxes.

The result is exact. It is the fixed point of a rule on the matrix of overlaps.
"""

import jax
import jax.numpy as jnp

from segjax.ops.boxes import box_iou


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    threshold: float | jax.Array,
    valid: jax.Array | None = None,
    categories: jax.Array | None = None,
) -> jax.Array:
    """Computes which boxes greedy non-maximum suppression keeps.

    A box is kept if no better kept box overlaps it by more than the threshold. The rule is applied
    to all boxes at once until nothing changes. This settles the best box first, then the boxes that
    only it can suppress, and so on. The number of rounds is the length of the longest chain of
    suppressions. The result equals the greedy one, since no other set is stable.

    A box with a coordinate that is not finite, or with a score of NaN or minus infinity, is dropped
    and suppresses nothing.

    Example:
      >>> boxes = jnp.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10]])
      >>> nms(boxes, jnp.array([0.9, 0.8, 0.7]), threshold=0.5).tolist()
      [True, False, True]

    Args:
      boxes: [N, 4], x1 y1 x2 y2. Overlaps are computed in float32.
      scores: [N]. Of equal scores, the earlier one wins.
      threshold: IoU above which a box is suppressed.
      valid: bool [N], False for padding, which is dropped and suppresses nothing.
      categories: int [N]. A box suppresses only boxes of its own category.

    Returns:
      bool [N], True for kept boxes.
    """
    count = boxes.shape[0]
    usable = jnp.all(jnp.isfinite(boxes), axis=-1) & (scores > -jnp.inf)
    valid = usable if valid is None else usable & valid
    # Row i is better than column j. Equal scores are ranked by position.
    better = (scores[:, None] > scores) | (
        (scores[:, None] == scores) & (jnp.arange(count)[:, None] < jnp.arange(count))
    )
    suppresses = better & (box_iou(boxes, boxes) > threshold)  # row suppresses column
    if categories is not None:
        suppresses = suppresses & (categories[:, None] == categories)

    def step(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        return valid & ~jnp.any(suppresses & keep[:, None], axis=0), keep

    first = step((valid, valid))
    return jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), step, first)[0]


def select_best(keep: jax.Array, scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Selects the best of the kept boxes into a fixed number of slots.

    Args:
      keep: bool [N], from `nms`, perhaps of several levels in a row.
      scores: [N], none of them minus infinity where a box is kept.
      count: number of slots.

    Returns:
      index: int32 [count], the best score first, of equal ones the earlier. 0 in unfilled slots.
      filled: bool [count], False in unfilled slots.
    """
    # Unfilled slots get a score of minus infinity.
    top, index = jax.lax.top_k(
        jnp.where(keep, scores.astype(jnp.float32), -jnp.inf), min(count, keep.shape[0])
    )
    filled, index = (jnp.pad(part, (0, count - part.shape[0])) for part in (top > -jnp.inf, index))
    return jnp.where(filled, index, 0).astype(jnp.int32), filled
