"""Non-maximum suppression as a fixed point on the matrix of overlaps: exact, static shapes, no loop over boxes."""

import jax
import jax.numpy as jnp

from segjax.ops.boxes import box_iou


def nms(boxes: jax.Array, scores: jax.Array, threshold: float | jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Which boxes greedy suppression keeps: best score first, each drops the later ones that overlap it too much.

    A box is kept if no better kept one overlaps it by more than the threshold. Starting from all and applying that rule
    until nothing changes settles the best box, then those that only it can drop, and so on: after as many rounds as the
    longest chain of suppressions the answer is the greedy one, and no other set is stable.

    Args:
      boxes: float32 [N, 4], x1 y1 x2 y2.
      scores: float32 [N]; of equal ones the earlier wins.
      threshold: IoU above which a box is dropped.
      valid: bool [N]; others (padding) are dropped and drop nothing.

    Returns:
      bool [N].
    """
    count = boxes.shape[0]
    valid = jnp.ones(count, bool) if valid is None else valid
    better = (scores[:, None] > scores) | (
        (scores[:, None] == scores) & (jnp.arange(count)[:, None] < jnp.arange(count))
    )
    drops = better & (box_iou(boxes, boxes) > threshold)  # row drops column

    def step(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        keep, _ = state
        return valid & ~jnp.any(drops & keep[:, None], axis=0), keep

    first = step((valid, valid))
    return jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), step, first)[0]
