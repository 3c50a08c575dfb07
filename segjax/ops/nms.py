"""Non-maximum suppression as a fixed point on the matrix of overlaps: exact, static shapes, no loop over boxes."""

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
    """Which boxes greedy suppression keeps: best score first, each drops the later ones that overlap it too much.

    A box is kept if no better kept one overlaps it by more than the threshold. Starting from all and applying that rule
    until nothing changes settles the best box, then those that only it can drop, and so on: after as many rounds as the
    longest chain of suppressions the answer is the greedy one, and no other set is stable.

    A box with a coordinate that is not finite, or of a score that is NaN or minus infinity, is dropped and drops
    nothing.

    Args:
      boxes: [N, 4], x1 y1 x2 y2; overlaps are worked out in float32.
      scores: [N]; of equal ones the earlier wins.
      threshold: IoU above which a box is dropped.
      valid: bool [N]; others (padding) are dropped and drop nothing.
      categories: int [N]; boxes drop those of their own category alone.

    Returns:
      bool [N].
    """
    count = boxes.shape[0]
    usable = jnp.all(jnp.isfinite(boxes), axis=-1) & (scores > -jnp.inf)
    valid = usable if valid is None else usable & valid
    better = (scores[:, None] > scores) | (
        (scores[:, None] == scores) & (jnp.arange(count)[:, None] < jnp.arange(count))
    )
    drops = better & (box_iou(boxes, boxes) > threshold)  # row drops column
    if categories is not None:
        drops = drops & (categories[:, None] == categories)

    def step(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        return valid & ~jnp.any(drops & keep[:, None], axis=0), keep

    first = step((valid, valid))
    return jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), step, first)[0]


def best(keep: jax.Array, scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The best of what suppression kept, in a fixed number of places.

    Args:
      keep: bool [N], from `nms`, or of several levels one after the other.
      scores: [N], none of them minus infinity where it is kept.
      count: places.

    Returns:
      index: int32 [count], best score first, of equal ones the earlier; 0 in places that are not filled.
      found: bool [count], False in places that are not filled.
    """
    found, index = jax.lax.top_k(
        jnp.where(keep, scores.astype(jnp.float32), -jnp.inf), min(count, keep.shape[0])
    )
    found, index = (jnp.pad(part, (0, count - part.shape[0])) for part in (found > -jnp.inf, index))
    return jnp.where(found, index, 0).astype(jnp.int32), found
