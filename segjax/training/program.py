"""An experiment laid out on a mesh: its compiled step, and the state that a run starts from."""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections
from jax.sharding import Mesh

from segjax.training import sharding
from segjax.training.checkpoints import Checkpoints
from segjax.training.optimizer import build_optimizer, parameter_path
from segjax.training.state import TrainState, init_state
from segjax.training.step import TrainStep
from segjax.training.task import Task, Variables
from segjax.training.trainable.partition import Partition, make_partition
from segjax.weights.download import fetch_named
from segjax.weights.tree import check_parameters, check_variables, flatten, unflatten

logger = logging.getLogger(__name__)
_ADAPTER_KEY = 0x10BA  # folded into the key of the parameters


@dataclasses.dataclass(frozen=True)
class Program:
    """The training step of an experiment on a mesh, and the layout of its state.

    The loop runs it. `tools/compile_for.py` compiles it for devices that are not attached.

    Attributes:
      mesh: Devices, with axes ("data", "fsdp").
      initialize: Pure function (init key, key of the run, {path: array to use instead of a random
        one}) -> state before the first step.
      shapes: ShapeDtypeStruct for each array of the state. No array has been made.
      shardings: NamedSharding for each array of the state.
      partition: Which parameters are trained, see `segjax.training.trainable.partition`.
      variable_shapes: ShapeDtypeStruct for each of the model's own variables, {"params",
        "constants"}.
      update: Update function of the optimizer: (gradients, optimizer state, parameters) ->
        (updates, optimizer state).
      step: Function (state, batch) -> (state, metrics). It compiles at its first call.
    """

    mesh: Mesh
    initialize: Callable[[jax.Array, jax.Array, Mapping[str, jax.Array]], TrainState]
    shapes: TrainState
    shardings: TrainState
    partition: Partition
    variable_shapes: Variables
    update: Callable[..., tuple]
    step: TrainStep

    def join(self, variables: Variables) -> Variables:
        """Returns the model's own variables of a state: frozen parameters among the others.

        Low-rank adapters are merged into their kernels.
        """
        if self.partition.adapters is None:
            return self.partition.join(variables)
        return jax.jit(self.partition.join)(variables)

    def trace(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> jax.stages.Traced:
        """Traces the step for batches of these shapes, to read, lower or compile it."""
        with jax.set_mesh(self.mesh):
            return self.step.trace(self.shapes, batch)


def make_program(task: Task, config: ml_collections.ConfigDict, mesh: Mesh) -> Program:
    """Lays out the step and state of an experiment on a mesh. Computes shapes, no arrays.

    Args:
      task: Gives the variables and the loss.
      config: Complete config of the run.
      mesh: Mesh with axes ("data", "fsdp").

    Returns:
      The program. Nothing is compiled yet.

    Raises:
      ValueError: Invalid settings of the optimizer, of `config.mesh` (see `state_shardings`), or
        of `config.trainable` and `config.lora` (see `make_partition`).
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(mesh):
        variable_shapes = jax.eval_shape(task.init, key)
    partition = make_partition(config, variable_shapes, task.encoder_path)
    schedule, optimizer = build_optimizer(config, variable_shapes["params"])

    def make_state(variables: Variables, init_key: jax.Array, run_key: jax.Array) -> TrainState:
        variables = partition.split(variables, jax.random.fold_in(init_key, _ADAPTER_KEY))
        return init_state(variables, optimizer, run_key, ema=config.ema_decay > 0)

    def initialize(
        init_key: jax.Array, run_key: jax.Array, given: Mapping[str, jax.Array]
    ) -> TrainState:
        variables = jax.tree_util.tree_map_with_path(
            lambda path, x: given.get(parameter_path(path), x), task.init(init_key)
        )
        return make_state(variables, init_key, run_key)

    def loss_fn(variables: Variables, *args: Any) -> tuple:
        return task.loss(partition.join(variables), *args)

    # Shapes before arrays: no device ever holds an array that is to be split
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(make_state, variable_shapes, key, key)
    rules = {name: config.mesh[name] for name in ("floor", "overrides", "unsharded_tolerance")}
    shardings = sharding.state_shardings(shapes, mesh, **rules)
    step = TrainStep(
        mesh,
        shardings,
        loss_fn=loss_fn,
        optimizer=optimizer,
        schedule=schedule,
        microbatches=config.microbatches,
        ema_decay=config.ema_decay,
        reduce_dtype=config.mesh.reduce_dtype,
    )
    return Program(
        mesh, initialize, shapes, shardings, partition, variable_shapes, optimizer.update, step
    )


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Compiles with few optimizations inside the block, for programs that run only once.

    Initializing the parameters of a model takes a third of the time this way.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def restore_or_initialize(
    task: Task,
    config: ml_collections.ConfigDict,
    program: Program,
    checkpoints: Checkpoints,
    variables: Variables | None,
) -> TrainState:
    """Returns the state to start from: resumed, loaded from elsewhere, or fresh.

    The order of precedence is that of `segjax.training.checkpoints`. No device ever holds an array
    whole that the program's shardings split. Call this function under the mesh.

    Args:
      task: Initializes what nothing else gives.
      config: Complete config of the run.
      program: Gives shapes and shardings of the state.
      checkpoints: Checkpoints of the run itself. The newest readable one comes first.
      variables: Variables to start from, or None.

    Raises:
      CheckpointError: A checkpoint cannot be read or does not fit the model.
      ValueError: `config.init_from` names a kind that the task cannot start from.
    """
    shapes, shardings = program.shapes, program.shardings
    if (restored := checkpoints.restore(shapes, shardings)) is not None:
        logger.info("resuming at step %d", restored[0].step)
        return restored[0]
    given = _load_given(task, config.init_from, program.variable_shapes, variables)
    if config.init_from and variables is None:
        loaded, needed = flatten(given), flatten(program.variable_shapes)
        logger.info(
            "loaded %d of the model's %d arrays from %s%s",
            *(len(loaded), len(needed), config.init_from),
            "" if len(loaded) == len(needed) else "; the others are random",
        )
    return initialize_state(task, program, config.seed, given)


def initialize_state(task: Task, program: Program, seed: int, given: Variables) -> TrainState:
    """Returns the state of a fresh run. Call it under the mesh.

    Args:
      task: Initializes the variables that are not given.
      program: Gives the shardings of the state.
      seed: Seed of the run.
      given: Variables to use instead of random ones, perhaps {}.
    """
    shardings, find = program.shardings, program.partition.find
    layout = flatten({"params": shardings.params, "constants": shardings.constants})
    given = {
        path: jax.device_put(array, layout[find(path)]) for path, array in flatten(given).items()
    }
    with quick_compilation():
        keys = jax.random.split(jax.random.key(seed))
        state = jax.jit(program.initialize, out_shardings=shardings)(*keys, given)
    if given.keys() == flatten(program.variable_shapes).keys():
        return state
    # Constants that depend on training images, such as the feature statistics of a linear probe
    variables = program.join(state.variables)
    measured = flatten(task.measure_constants(variables, mesh=program.mesh), "constants")
    if not measured:
        return state
    measured = {path: jax.device_put(array, layout[path]) for path, array in measured.items()}
    constants = unflatten(flatten(state.constants, "constants") | measured)
    return state.replace(constants=constants.get("constants", {}))


def _load_given(
    task: Task, init_from: str, expected: Variables, variables: Variables | None
) -> Variables:
    """Loads the variables that are not initialized: all, those of another kind of model, or none.

    Errors are those of `read_checkpoint`, `Checkpoint.variables` and `Task.load_pretrained`.
    """
    if variables is not None:
        check_variables(expected, variables, source="variables")
        return {name: variables.get(name, {}) for name in ("params", "constants")}
    if not init_from:
        return {}
    source = f"init_from {init_from}"
    if file := fetch_named(init_from):
        init_from = str(file)
    # "kind:path" names another kind of model; an address such as gs://bucket/run does not.
    named = re.fullmatch(r"([a-z_0-9]+):(?!//)(.+)", init_from)
    if not named or os.path.exists(init_from):
        return task.load_own(init_from, expected, source=source)
    kind, path = named.groups()
    loaded = task.load_pretrained(kind, str(fetch_named(path) or path), expected)
    want, have = flatten(expected), flatten(loaded)
    want = {path: want[path] for path in have if path in want}
    check_parameters(want, have, source=source, kind="arrays")
    return loaded
