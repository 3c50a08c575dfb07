"""One optimizer step: a pure function of the state and the batch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from segjax.ops.sharded_dense import gradients_in
from segjax.training.sharding import batch_sharding, replicated
from segjax.training.state import TrainState

LossFn = Callable[..., tuple[jax.Array, jax.Array, dict[str, jax.Array]]]


def train_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    *,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    microbatches: int = 1,
    ema_decay: float = 0.0,
    reduce_dtype: str = "",
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after one step on a batch [B, ...], and scalar metrics.

    Loss, gradient and metrics are sums over the batch divided once by its weight, so that neither
    microbatches nor devices nor placeholder rows of weight 0 change them; a batch of no weight has gradient
    0. Gradients of linear layers' weights are added up over devices in `reduce_dtype`, see
    `segjax.ops.sharded_dense.gradients_in`. When the loss or the gradient is not finite, the state stays as it was
    (`TrainState.finite`).
    """
    key = jax.random.fold_in(state.key, state.step)
    with gradients_in(reduce_dtype):
        grads, loss, weight, sums = gradient_sums(loss_fn, state, batch, key, microbatches)
    per_weight = jnp.where(weight > 0, 1.0 / jnp.where(weight > 0, weight, 1.0), 0.0)
    grads, loss, means = jax.tree.map(lambda total: total * per_weight, (grads, loss, sums))
    grad_norm = optax.tree.norm(grads)
    finite = state.finite & jnp.isfinite(loss) & jnp.isfinite(grad_norm)

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
    metrics = {
        **means,
        "loss": loss,
        "grad_norm": grad_norm,
        "lr": schedule(state.step),
        "finite": finite,
    }
    return state.replace(
        step=new[0], params=new[1], opt_state=new[2], ema=new[3], finite=finite
    ), metrics


def gradient_sums(
    loss_fn: LossFn,
    state: TrainState,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
    microbatches: int,
) -> tuple[Any, jax.Array, jax.Array, dict[str, jax.Array]]:
    """(gradient of the loss sum, loss sum, weight, metric sums), float32, added up over microbatches."""

    def sums(
        piece: Mapping[str, jax.Array], key: jax.Array
    ) -> tuple[Any, jax.Array, jax.Array, dict]:
        def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict]]:
            variables = {"params": params, "constants": state.constants}
            loss, weight, metrics = loss_fn(variables, piece, key, True)
            return loss, (weight, metrics)

        (loss, (weight, metrics)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        return jax.tree.map(lambda x: x.astype(jnp.float32), (grads, loss, weight, metrics))

    if microbatches == 1:
        return sums(batch, key)

    def split(rows: jax.Array) -> jax.Array:
        # Row r goes to microbatch r % m: each device keeps its own rows, so splitting moves no data.
        return jnp.moveaxis(rows.reshape(-1, microbatches, *rows.shape[1:]), 1, 0)

    def add(total: Any, item: tuple[dict, jax.Array]) -> tuple[Any, None]:
        piece, number = item
        return jax.tree.map(jnp.add, total, sums(piece, jax.random.fold_in(key, number))), None

    pieces = jax.tree.map(split, dict(batch))
    shapes = jax.eval_shape(sums, jax.tree.map(lambda x: x[0], pieces), key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (pieces, jnp.arange(microbatches)))[0]


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    *,
    microbatches: int = 1,
    ema_decay: float = 0.0,
    reduce_dtype: str = "",
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step` with everything but (state, batch) bound; not yet compiled."""
    return functools.partial(
        train_step,
        loss_fn=loss_fn,
        optimizer=optimizer,
        schedule=schedule,
        microbatches=microbatches,
        ema_decay=ema_decay,
        reduce_dtype=reduce_dtype,
    )


class CompiledStep:
    """A step jitted with fixed shardings. The state passed in is given up (donated). Call it under the mesh.

    The run's key goes in beside the rest of the state and never comes out: it does not change, and a typed
    key that passes through jit comes back with its sharding written another way, which looks like a new
    signature.
    """

    def __init__(self, step: Callable, state_shardings: TrainState, mesh: Mesh) -> None:
        def keyless(
            state: TrainState, key: jax.Array, batch: Any
        ) -> tuple[TrainState, dict[str, jax.Array]]:
            state, metrics = step(state.replace(key=key), batch)
            return state.replace(key=None), metrics

        inside = state_shardings.replace(key=None)
        self._jitted = jax.jit(
            keyless,
            in_shardings=(inside, state_shardings.key, batch_sharding(mesh)),
            out_shardings=(inside, replicated(mesh)),
            donate_argnums=0,
        )

    def __call__(
        self, state: TrainState, batch: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """(state after the step, metrics on the device)."""
        new, metrics = self._jitted(state.replace(key=None), state.key, batch)
        return new.replace(key=state.key), metrics

    def trace(self, state: TrainState, batch: Mapping[str, Any]) -> jax.stages.Traced:
        """Traces for arrays or ShapeDtypeStructs, to read the program, or to lower and compile it ahead of time."""
        return self._jitted.trace(state.replace(key=None), state.key, batch)

    def lower(self, state: TrainState, batch: Mapping[str, Any]) -> jax.stages.Lowered:
        """`trace`, lowered."""
        return self.trace(state, batch).lower()

    @property
    def compilations(self) -> int:
        """Signatures seen so far; one, unless batches change their shapes or dtypes."""
        return self._jitted._cache_size()
