"""Everything that changes during training, in one tree."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from segjax.training.task import Variables


@flax.struct.dataclass
class TrainState:
    """The state of a run. A checkpoint holds all of it but `finite`.

    step: int32, optimizer steps done; constants: variables no gradient reaches; key: typed PRNG key of the
    run, folded with the step inside each step; ema: moving average of the parameters, or None; finite: False
    once a step met a loss or gradient that is not finite. From then on steps change nothing, so the state is
    the one before the bad batch, whenever the loop gets round to looking.
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
        """What is trained: {"params", "constants"}."""
        return {"params": self.params, "constants": self.constants}

    @property
    def best_variables(self) -> Variables:
        """What to evaluate and publish: the moving average where there is one."""
        return {
            "params": self.params if self.ema is None else self.ema,
            "constants": self.constants,
        }


def create_state(
    variables: Variables,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *,
    ema: bool = False,
) -> TrainState:
    """State before the first step. Pure, to be traced: see `segjax.training.loop`."""
    # A weak type (jnp.full(..., 0.5)) is lost in a checkpoint, and the resumed run would compile another
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
