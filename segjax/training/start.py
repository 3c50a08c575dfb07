"""The state a run starts from: resumed, taken from elsewhere, or fresh (the order is that of `checkpoints`)."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator

import jax
import ml_collections
import optax
from jax.sharding import Mesh

from segjax.training import sharding
from segjax.training.checkpoints import Checkpoints
from segjax.training.state import TrainState, create_state
from segjax.training.task import Task, Variables
from segjax.weights.checkpoint import read_checkpoint
from segjax.weights.tree import check_variables

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """For programs that run but once: drawing parameters takes a third as long without costly optimisations."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def first_state(
    task: Task,
    config: ml_collections.ConfigDict,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    checkpoints: Checkpoints,
    variables: Variables | None,
) -> tuple[TrainState, TrainState]:
    """(state to start from, its shardings). No device ever holds an array that the shardings split."""
    init_key, run_key = jax.random.split(jax.random.key(config.seed))

    def fresh(init_key: jax.Array, run_key: jax.Array) -> TrainState:
        return create_state(task.init(init_key), optimizer, run_key, ema=config.ema_decay > 0)

    shapes = jax.eval_shape(fresh, init_key, run_key)
    rules = {n: config.mesh[n] for n in ("floor", "overrides", "unsharded_tolerance")}
    shardings = sharding.state_shardings(shapes, mesh, **rules)
    if (restored := checkpoints.restore(shapes, shardings)) is not None:
        logger.info("resuming at step %d", restored[0].step)
        return restored[0], shardings
    expected = {"params": shapes.params, "constants": shapes.constants}
    if variables is not None:
        check_variables(expected, variables, source="variables")
    elif config.init_from:
        elsewhere = read_checkpoint(config.init_from)
        variables = dataclasses.replace(elsewhere, source=f"init_from {config.init_from}").variables(expected)
    if variables is None:
        with quick_compilation():
            return jax.jit(fresh, out_shardings=shardings)(init_key, run_key), shardings
    given = {n: variables.get(n, {}) for n in ("params", "constants")}
    given = jax.device_put(given, {n: getattr(shardings, n) for n in given})
    wrap = lambda v, key: create_state(v, optimizer, key, ema=config.ema_decay > 0)
    return jax.jit(wrap, out_shardings=shardings)(given, run_key), shardings
