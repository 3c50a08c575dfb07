"""Everything that changes during training, in one tree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from segjax.training.task import Variables


@flax.struct.dataclass
class TrainState:
    """State of a run. A checkpoint holds all of it but `finite`.

    Attributes:
      step: int32, number of optimizer steps done.
      params: Trained parameters.
      constants: Variables without a gradient.
      opt_state: State of the optimizer.
      key: Typed PRNG key of the run. Each step folds its number into it.
      ema: Exponential moving average (EMA) of the parameters, or None.
      finite: bool, False once a step met a loss or gradient that is not finite. From then on, steps
        change nothing. The state stays the one before the bad batch until the loop looks at it.
    """

    step: jax.Array
    params: Any
    constants: Any
    opt_state: Any
    key: jax.Array
    ema: Any
    finite: jax.Array

    @property
    def variables(self) -> Variables:
        """Variables being trained: {"params", "constants"}."""
        return {"params": self.params, "constants": self.constants}

    @property
    def best_variables(self) -> Variables:
        """Variables to evaluate and publish: the moving average if there is one."""
        return {
            "params": self.params if self.ema is None else self.ema,
            "constants": self.constants,
        }


def init_state(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    ema: bool = False,
) -> TrainState:
    """Returns the state before the first step. Pure, to be traced.

    Args:
      variables: {"params", "constants"}.
      optimizer: Optimizer of the parameters.
      key: Typed PRNG key of the run.
      ema: Whether to keep a moving average of the parameters.
    """
    # A checkpoint loses weak types (jnp.full(..., 0.5)). The resumed run would compile another
    # program.
    variables = jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), dict(variables))
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        constants=variables.get("constants", {}),
        opt_state=optimizer.init(params),
        key=key,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        finite=jnp.ones((), bool),
    )
