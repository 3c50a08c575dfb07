"""The state a run starts from: resumed, taken from elsewhere, or fresh (the order is that of `checkpoints`)."""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Iterator

import jax
import ml_collections

from segjax.training.checkpoints import Checkpoints
from segjax.training.program import Program
from segjax.training.state import TrainState
from segjax.training.task import Task, Variables
from segjax.weights.checkpoint import read_checkpoint
from segjax.weights.tree import check_parameters, check_variables, flatten, unflatten

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
    program: Program,
    checkpoints: Checkpoints,
    variables: Variables | None,
) -> TrainState:
    """The state to start from. No device ever holds an array that the program's shardings split."""
    shapes, shardings = program.shapes, program.shardings
    if (restored := checkpoints.restore(shapes, shardings)) is not None:
        logger.info("resuming at step %d", restored[0].step)
        return restored[0]
    expected = {"params": shapes.params, "constants": shapes.constants}
    return drawn_state(
        task, program, config.seed, _given(task, config.init_from, expected, variables)
    )


def drawn_state(task: Task, program: Program, seed: int, given: Variables) -> TrainState:
    """The state of a fresh run; `given` holds the variables that are not to be drawn. Call it under the mesh."""
    shardings = program.shardings
    places = flatten({"params": shardings.params, "constants": shardings.constants})
    given = {path: jax.device_put(array, places[path]) for path, array in flatten(given).items()}
    with quick_compilation():
        keys = jax.random.split(jax.random.key(seed))
        state = jax.jit(program.first, out_shardings=shardings)(*keys, given)
    if hasattr(task, "measured_constants") and given.keys() != places.keys():
        found = flatten(task.measured_constants(state.variables, mesh=program.mesh), "constants")
        placed = {path: jax.device_put(array, places[path]) for path, array in found.items()}
        constants = unflatten(flatten(state.constants, "constants") | placed)
        state = state.replace(constants=constants.get("constants", {}))
    return state


def _given(
    task: Task, init_from: str, expected: Variables, variables: Variables | None
) -> Variables:
    """What is not to be drawn: all of the variables, or those that another kind of model has, or none.

    Raises what `read_checkpoint`, `Checkpoint.variables` and `Task.pretrained` raise.
    """
    if variables is not None:
        check_variables(expected, variables, source="variables")
        return {name: variables.get(name, {}) for name in ("params", "constants")}
    if not init_from:
        return {}
    source = f"init_from {init_from}"
    named = re.fullmatch(r"([a-z_0-9]+):(?!//)(.+)", init_from)  # and no gs://bucket/...
    if named and not os.path.exists(init_from):
        found = task.pretrained(*named.groups(), expected)
        wanted, have = flatten(expected), flatten(found)
        check_parameters(
            {path: wanted[path] for path in have if path in wanted},
            have,
            source=source,
            kind="arrays",
        )
        return found
    return dataclasses.replace(read_checkpoint(init_from), source=source).variables(expected)
