"""Learning-rate schedules: a linear warm-up, then a named curve.

Sources: Segment Anything, appendix A (step), MAE, appendix A (cosine), SAM 2, arXiv 2408.00714,
appendix (reciprocal square root with a cool-down, as in Zhai et al. 2022).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Schedule = Callable[[Any], jax.Array]

SCHEDULES = ("constant", "cosine", "step", "rsqrt")


def make_schedule(
    peak_lr: float,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    boundaries: Sequence[int] = (),
    decay_factor: float = 0.1,
    final_lr: float = 0.0,
    timescale: int = 1000,
    cooldown_steps: int = 0,
) -> Schedule:
    """Makes a learning-rate schedule: linear warm-up from 0, then the named schedule.

        schedule = make_schedule(1e-3, total_steps=100, warmup_steps=10)  # cosine
        schedule(10)  # 0.001

    Args:
      peak_lr: Learning rate at the end of the warm-up.
      total_steps: Length of the run, in steps.
      warmup_steps: Steps of linear warm-up.
      schedule: "cosine" falls to `final_lr` at `total_steps`. "step" multiplies by `decay_factor`
        at each boundary. "constant" stays. "rsqrt" falls as
        1 / sqrt(1 + steps since the warm-up / timescale).
      boundaries: Ascending steps for "step". The step at a boundary has the lower rate.
      decay_factor: Factor at each boundary.
      final_lr: Last learning rate of "cosine".
      timescale: Steps after which "rsqrt" has fallen by sqrt(2).
      cooldown_steps: The rate also falls linearly to 0 over so many steps at the end of the run.

    Returns:
      Function of the step (0-based, may be traced) -> learning rate, float32.

    Raises:
      ValueError: Unknown schedule, descending boundaries, or a warm-up longer than the run.
    """
    boundaries = tuple(boundaries)
    _check_schedule(schedule, total_steps, warmup_steps, cooldown_steps, timescale, boundaries)

    def rate(step: Any) -> jax.Array:
        """Returns the learning rate of a step, which may be traced."""
        # Warm-up and cool-down
        step = jnp.asarray(step, jnp.float32)
        scale = jnp.minimum(step / warmup_steps, 1.0) if warmup_steps else jnp.float32(1.0)
        if cooldown_steps:
            scale *= jnp.clip((total_steps - step) / cooldown_steps, 0.0, 1.0)
        # The named schedule
        since = jnp.maximum(step - warmup_steps, 0.0)
        if schedule == "rsqrt":
            return peak_lr * scale * jax.lax.rsqrt(1.0 + since / timescale)
        if schedule == "step":
            return (
                peak_lr
                * scale
                * decay_factor ** sum((step >= b).astype(jnp.float32) for b in boundaries)
            )
        if schedule == "cosine":
            done = jnp.clip(since / max(total_steps - warmup_steps, 1), 0.0, 1.0)
            return scale * (final_lr + (peak_lr - final_lr) * 0.5 * (1.0 + jnp.cos(jnp.pi * done)))
        return peak_lr * scale

    return rate


def _check_schedule(
    schedule: str,
    total_steps: int,
    warmup_steps: int,
    cooldown_steps: int,
    timescale: int,
    boundaries: tuple[int, ...],
) -> None:
    """Raises ValueError for arguments of `make_schedule` that do not fit together."""
    if schedule not in SCHEDULES:
        raise ValueError(
            f"optimizer.schedule is {schedule!r}; expected one of {', '.join(SCHEDULES)}"
        )
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"optimizer.warmup_steps is {warmup_steps}; expected 0 to total_steps ({total_steps})"
        )
    if not 0 <= cooldown_steps <= total_steps - warmup_steps:
        raise ValueError(
            f"optimizer.cooldown_steps is {cooldown_steps}; expected 0 to the steps after the "
            f"warm-up ({total_steps - warmup_steps})"
        )
    if timescale <= 0:
        raise ValueError(f"optimizer.timescale is {timescale}; expected a positive number of steps")
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"optimizer.boundaries is {boundaries}; expected steps in ascending order")
    if (schedule == "step") != bool(boundaries):
        raise ValueError(
            f"optimizer.schedule is {schedule!r} with boundaries {boundaries}; "
            "boundaries go with schedule 'step', and with no other"
        )
