"""Runs the same steps of a task on any mesh, to compare devices and processes."""

from typing import NamedTuple

import jax
import numpy as np
import optax
from processes import meet

from segjax.training.optimizer import make_optimizer, make_schedule
from segjax.training.sharding import place_batch, replicated, state_shardings
from segjax.training.state import TrainState, init_state
from segjax.training.step import TrainStep

SCHEDULE = make_schedule(1e-3, 100, schedule="constant")


class Outcome(NamedTuple):
    losses: list[float]
    gradient: dict  # of the first step, whole arrays
    params: dict  # after the last
    state: TrainState


def one_device() -> jax.sharding.Mesh:
    axis_types = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((1, 1), ("data", "fsdp"), axis_types, devices=jax.local_devices()[:1])


def run_on(mesh, task, variables, batches, *, microbatches=1, floor=64) -> Outcome:
    """Runs a step of AdamW for each of `batches` (rows of this process)."""
    # A trace with decay 0 keeps the gradient.
    optimizer = optax.chain(optax.trace(0.0), make_optimizer(SCHEDULE, weight_decay=0.1))
    whole = lambda tree: jax.device_get(jax.jit(lambda t: t, out_shardings=replicated(mesh))(tree))
    fresh = lambda variables: init_state(variables, optimizer, jax.random.key(1))
    with jax.set_mesh(mesh):
        shardings = state_shardings(jax.eval_shape(fresh, variables), mesh, floor=floor)
        state = jax.jit(fresh, out_shardings=shardings)(variables)
        options = dict(loss_fn=task.loss, optimizer=optimizer, schedule=SCHEDULE)
        step = TrainStep(mesh, shardings, microbatches=microbatches, **options)
        losses, gradient = [], None
        call = (
            step
            if jax.process_count() == 1
            else _compile_together(step, state, place_batch(batches[0], mesh))
        )
        for batch in batches:
            old = state
            state, metrics = call(state, place_batch(batch, mesh))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params)), (
                "the state is donated"
            )
            losses.append(float(metrics["loss"]))
            gradient = gradient or whole(state.opt_state[0].trace)
        params = whole(state.params)
    assert step.compilations <= 1
    return Outcome(losses, gradient, params, state)


def _compile_together(step, state, batch):
    """Compiles the step ahead of time and returns it once every process has done so."""
    program = step.trace(state, batch).lower().compile()
    meet("compiled")

    def call(state, batch):
        new, metrics = program(state.replace(key=None), state.key, batch)
        return new.replace(key=state.key), metrics

    return call


def assert_same(ours: Outcome, theirs: Outcome, tolerance: float = 1e-5) -> None:
    """Compares each loss and, by its norm, each array of the gradient."""
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=tolerance)
    norm = lambda x: np.linalg.norm(np.ravel(x))
    largest = max(norm(leaf) for leaf in jax.tree.leaves(theirs.gradient))

    def close(path, mine, other):
        # Softmax ignores the bias of keys: its gradient is 0, and both sides are rounding errors
        # of a sum over all queries.
        floor = 1e-2 if [key.key for key in path[-2:]] == ["k", "bias"] else 1e-3
        bound = tolerance * max(norm(other), floor * largest)
        assert norm(mine - other) <= bound, (
            f"{jax.tree_util.keystr(path)}: {norm(mine - other)} > {bound}"
        )

    jax.tree_util.tree_map_with_path(close, ours.gradient, theirs.gradient)
