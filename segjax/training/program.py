"""An experiment's training step laid out on a mesh: the loop runs it, and it compiles for devices elsewhere."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import ml_collections
from jax.sharding import Mesh

from segjax.training import sharding
from segjax.training.optimizer import from_config, parameter_path
from segjax.training.state import TrainState, create_state
from segjax.training.step import CompiledStep, make_train_step
from segjax.training.task import Task


@dataclasses.dataclass(frozen=True)
class Program:
    """The step, and the state that it takes.

    Attributes:
      first: (init key, run's key, {path: array that is not to be drawn}) -> state before the first step. Pure.
      shapes, shardings: of the state; no array has been made.
      update: the optimizer's, of (gradients, optimizer state, parameters); a part of the step.
      step: (state, batch) -> (state, metrics), not compiled before it is called or lowered.
    """

    mesh: Mesh
    first: Callable[[jax.Array, jax.Array, Mapping[str, jax.Array]], TrainState]
    shapes: TrainState
    shardings: TrainState
    update: Callable[..., tuple]
    step: CompiledStep

    def trace(self, batch: Mapping[str, jax.ShapeDtypeStruct]) -> jax.stages.Traced:
        """The step for batches of these shapes, to be read, lowered and compiled for the mesh's devices."""
        with jax.set_mesh(self.mesh):
            return self.step.trace(self.shapes, batch)


def make_program(task: Task, config: ml_collections.ConfigDict, mesh: Mesh) -> Program:
    """The program of a config; raises what `state_shardings` and the optimizer's factory raise."""
    schedule, optimizer = from_config(config)

    def first(
        init_key: jax.Array, run_key: jax.Array, given: Mapping[str, jax.Array]
    ) -> TrainState:
        drawn = task.init(init_key)
        variables = jax.tree_util.tree_map_with_path(
            lambda path, x: given.get(parameter_path(path), x), drawn
        )
        return create_state(variables, optimizer, run_key, ema=config.ema_decay > 0)

    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(first, key, key, {})
    rules = {n: config.mesh[n] for n in ("floor", "overrides", "unsharded_tolerance")}
    shardings = sharding.state_shardings(shapes, mesh, **rules)
    pace = {n: config[n] for n in ("microbatches", "ema_decay")}
    step = make_train_step(
        task.loss, optimizer, schedule, reduce_dtype=config.mesh.reduce_dtype, **pace
    )
    return Program(
        mesh, first, shapes, shardings, optimizer.update, CompiledStep(step, shardings, mesh)
    )
