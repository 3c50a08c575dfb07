"""One optimizer step: a pure function of the state and the batch, and its compiled form."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from segjax.ops.sharded_dense import reduce_gradients_in
from segjax.training.sharding import batch_sharding, replicated
from segjax.training.state import TrainState

LossFn = Callable[..., tuple[jax.Array, jax.Array, dict[str, jax.Array]]]
GradientSums = tuple[Any, jax.Array, jax.Array, dict[str, jax.Array]]


def train_step(
    state: TrainState,
    key: jax.Array,
    batch: Mapping[str, jax.Array],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    microbatches: int = 1,
    ema_decay: float = 0.0,
    reduce_dtype: str = "",
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Computes the gradient of a batch and applies one optimizer update.

    Loss, gradient and metrics are sums over the batch, divided once by its weight. Gradient
    accumulation (`microbatches`), the number of devices and placeholder rows of weight 0 therefore
    do not change them. A batch of weight 0 has gradient 0. If the loss or the gradient is not
    finite, the state stays as it was (`TrainState.finite`).

    Args:
      state: State before the step. Its own `key` is neither read nor changed.
      key: Typed PRNG key of the run. It is folded with the step number.
      batch: Arrays with leading axis B.
      loss_fn: `Task.loss`.
      optimizer: Optax transformation, see `segjax.training.optimizer`.
      schedule: Learning rate as a function of the step, for the log.
      microbatches: Number of pieces for gradient accumulation.
      ema_decay: Decay of the exponential moving average (EMA) of the parameters. 0: no average.
      reduce_dtype: Type in which devices sum the gradients of linear layers, see
        `segjax.ops.sharded_dense.reduce_gradients_in`.

    Returns:
      The state after the step, and scalar metrics: the task's means, "loss", "grad_norm", "lr" and
      "finite".
    """
    # Gradient
    key = jax.random.fold_in(key, state.step)
    with reduce_gradients_in(reduce_dtype):
        grads, loss, weight, sums = sum_gradients(loss_fn, state, batch, key, microbatches)
    per_weight = jnp.where(weight > 0, 1.0 / jnp.where(weight > 0, weight, 1.0), 0.0)
    grads, loss, means = jax.tree.map(lambda total: total * per_weight, (grads, loss, sums))
    grad_norm = optax.tree.norm(grads)
    finite = state.finite & jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    # Update
    new = _apply_gradients(state, grads, optimizer, ema_decay, finite)
    metrics = {
        **means,
        "loss": loss,
        "grad_norm": grad_norm,
        "lr": schedule(state.step),
        "finite": finite,
    }
    return new, metrics


def _apply_gradients(
    state: TrainState,
    grads: Any,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    finite: jax.Array,
) -> TrainState:
    """Updates parameters, optimizer state and moving average, or nothing if not `finite`."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = (
        jax.tree.map(lambda e, p: ema_decay * e + (1.0 - ema_decay) * p, state.ema, params)
        if ema_decay
        else None
    )
    old = (state.step, state.params, state.opt_state, state.ema)
    new = jax.tree.map(
        lambda n, o: jnp.where(finite, n, o), (state.step + 1, params, opt_state, ema), old
    )
    return state.replace(step=new[0], params=new[1], opt_state=new[2], ema=new[3], finite=finite)


def sum_gradients(
    loss_fn: LossFn,
    state: TrainState,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    microbatches: int,
) -> GradientSums:
    """Sums the gradient, loss, weight and metrics of a batch, with gradient accumulation.

    Args:
      loss_fn: `Task.loss`.
      state: Holds the parameters and constants.
      batch: Arrays with leading axis B. B is divisible by `microbatches`.
      key: Typed PRNG key of this step. Each microbatch folds its number into it.
      microbatches: Number of pieces that the batch is split into. 1: no accumulation.

    Returns:
      (gradient of the loss sum, loss sum, weight, metric sums), all float32.
    """

    def objective(
        params: Any, rows: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, dict]]:
        variables = {"params": params, "constants": state.constants}
        loss, weight, metrics = loss_fn(variables, rows, key, True)
        return loss, (weight, metrics)

    differentiate = jax.value_and_grad(objective, has_aux=True)
    if microbatches == 1:
        return _to_sums(*differentiate(state.params, batch, key))

    def split(rows: jax.Array) -> jax.Array:
        # Row r goes to microbatch r % m: each device keeps its rows, so splitting moves no data
        return jnp.moveaxis(rows.reshape(-1, microbatches, *rows.shape[1:]), 1, 0)

    def compute(rows: Mapping[str, jax.Array], key: jax.Array) -> GradientSums:
        return _to_sums(*differentiate(state.params, rows, key))

    def accumulate(total: GradientSums, item: tuple[dict, jax.Array]) -> tuple[GradientSums, None]:
        rows, number = item
        sums = compute(rows, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, total, sums), None

    # The first carry of the scan is a tree of zeros
    pieces = jax.tree.map(split, dict(batch))
    shapes = jax.eval_shape(compute, jax.tree.map(lambda x: x[0], pieces), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(accumulate, zeros, (pieces, jnp.arange(microbatches)))[0]


def _to_sums(value: tuple, grads: Any) -> GradientSums:
    """Reorders the result of `value_and_grad` and casts it to float32."""
    loss, (weight, metrics) = value
    return jax.tree.map(lambda x: x.astype(jnp.float32), (grads, loss, weight, metrics))


class TrainStep:
    """`train_step` compiled once for a mesh. You can skip this; the math is in `train_step`.

    The state that is passed in is donated: its arrays must not be used afterwards. Call the step
    inside `jax.set_mesh`.

    The run's key is an argument beside the rest of the state and is never an output. It does not
    change, and a typed key that passes through jit returns with another spelling of its sharding,
    which would look like a new signature and compile the step again.
    """

    def __init__(self, mesh: Mesh, state_shardings: TrainState, **options: Any) -> None:
        """Prepares the step without tracing it.

        Args:
          mesh: Mesh that the step runs on.
          state_shardings: A sharding for each array of the state.
          **options: Keyword arguments of `train_step`.
        """
        shardings = state_shardings.replace(key=None)
        self._jitted = jax.jit(
            functools.partial(train_step, **options),
            in_shardings=(shardings, state_shardings.key, batch_sharding(mesh)),
            out_shardings=(shardings, replicated(mesh)),
            donate_argnums=0,
        )

    def __call__(
        self, state: TrainState, batch: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Returns the state after the step, and its metrics, still on the devices."""
        new, metrics = self._jitted(state.replace(key=None), state.key, batch)
        return new.replace(key=state.key), metrics

    def trace(self, state: TrainState, batch: Mapping[str, Any]) -> jax.stages.Traced:
        """Traces the step for arrays or ShapeDtypeStructs, to read, lower or compile it."""
        return self._jitted.trace(state.replace(key=None), state.key, batch)

    @property
    def compilations(self) -> int:
        """Number of signatures seen so far: 1 unless batches change their shapes or dtypes."""
        return self._jitted._cache_size()
