"""Checkpoints of a run: state and config together, written in the background, read back on any mesh.

Where a run's parameters come from, in this order: its own newest readable checkpoint (everything is resumed),
else `config.init_from` (parameters and constants of another run, or some of them from another kind of model), else the
task's initialisation.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from segjax.training.optimizer import parameter_path
from segjax.training.state import TrainState
from segjax.weights.run_folder import best_step, newest_readable, saved_metrics, saved_tree
from segjax.weights.tree import CheckpointError, check_variables, differences, flatten

logger = logging.getLogger(__name__)

_SAVED = ("step", "params", "constants", "opt_state", "key", "ema")


class Checkpoints:
    """The checkpoints in one directory. A context manager: leaving it waits for the save under way.

    keep: newest checkpoints kept; best: name of a metric whose best checkpoint is kept too ("": none);
    best_mode: "max" or "min".
    """

    def __init__(
        self,
        directory: str | pathlib.Path,
        *,
        keep: int = 2,
        best: str = "",
        best_mode: str = "max",
    ) -> None:
        self.directory = pathlib.Path(directory).absolute()
        policies: list[preservation_policy.PreservationPolicy] = [
            preservation_policy.LatestN(n=keep)
        ]
        self._metrics = saved_metrics(self.directory)
        if best:
            policies.append(_Best(self._metrics, best, best_mode))
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies)
            ),
            item_names=("state", "meta"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def steps(self) -> list[int]:
        """Steps saved, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, state: TrainState, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts a save of the state at its step; returns once the arrays are copied off the devices.

        meta: JSON; the versions of jax and segjax and the metrics, by which the best is chosen, are added. A step that
        is saved already is left alone.
        """
        step = int(jax.device_get(state.step))
        if step in self._manager.all_steps():
            return
        self._metrics[step] = dict(metrics or {})
        versions = {"segjax": segjax_version(), "jax": jax.__version__}
        meta = {**meta, "versions": versions, "metrics": self._metrics[step]}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({name: getattr(state, name) for name in _SAVED}),
                meta=ocp.args.JsonSave(meta),
            ),
            force=True,
        )

    def wait(self) -> None:
        """Returns when every save is on disk."""
        self._manager.wait_until_finished()

    def restore(
        self, shapes: TrainState, shardings: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """(state on the mesh of `shardings`, meta) of the newest checkpoint that can be read; None if there is none.

        A checkpoint that cannot be read is passed over with a warning and moved aside, so that its step can
        be saved again. Raises CheckpointError when none can be read, or when the newest that can is sound but
        holds another model, optimizer state or moving average than `shapes`; nothing is moved then.
        """
        target = {
            name: jax.tree.map(
                lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
                getattr(shapes, name),
                getattr(shardings, name),
            )
            for name in _SAVED
        }

        def read(step: int) -> tuple[TrainState, dict[str, Any]]:
            source = f"checkpoint {self.directory / str(step)}"
            found = saved_tree(self.directory, step)
            check_variables(target, found, source=source)
            _check_settings(target, found, source)
            item = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
                ),
            )
            return shapes.replace(
                **item.state, finite=jax.device_put(np.True_, shardings.finite)
            ), item.meta

        if not self.steps:
            return None
        result, unreadable = newest_readable(self.directory, self.steps, read)
        for step in unreadable:
            if jax.process_index() == 0:
                aside = self.directory.with_name(f"{self.directory.name}_unreadable")
                aside.mkdir(exist_ok=True)
                (self.directory / str(step)).rename(_free_name(aside / str(step)))
        if unreadable:
            if jax.process_count() > 1:  # nobody looks again before they are out of the way
                multihost_utils.sync_global_devices("unreadable checkpoints moved aside")
            self._manager.reload()
        return result


@dataclasses.dataclass
class _Best(preservation_policy.PreservationPolicy):
    """Preserves the best checkpoint by one metric. (Orbax's own policy forgets the metrics when the run is resumed.)"""

    metrics: Mapping[int, Mapping[str, float]]  # by step; grows with every save
    name: str
    mode: str

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        there = {
            checkpoint.step: self.metrics.get(checkpoint.step, {}) for checkpoint in checkpoints
        }
        best = best_step(there, self.name, self.mode)
        return [checkpoint.step == best for checkpoint in checkpoints]


def _check_settings(target: Mapping[str, Any], found: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError when a setting has changed what a checkpoint holds beside the model."""
    for name, what, setting in (
        ("opt_state", "optimizer state", "the settings in config.optimizer"),
        ("ema", "moving average", "config.ema_decay"),
    ):
        want = {
            parameter_path(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(target[name])
        }
        if problem := differences(want, flatten(found[name])):
            raise CheckpointError(
                f"{source} holds another {what} than this run would: {problem}. Give {setting} the values that the "
                "run began with, or begin another run with its parameters: config.init_from"
            )


def segjax_version() -> str:
    """Version of the installed package."""
    import importlib.metadata

    try:
        return importlib.metadata.version("segjax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _free_name(path: pathlib.Path) -> pathlib.Path:
    number = 0
    while (candidate := path if number == 0 else path.with_name(f"{path.name}_{number}")).exists():
        number += 1
    return candidate
