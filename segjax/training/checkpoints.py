"""Checkpoints of a run: state and config together, saved in the background, restored on any mesh.

The parameters of a run come from, in this order:
1. its own newest readable checkpoint, with the rest of the state,
2. `config.init_from`: another run, or some parameters of another kind of model,
3. the task's initialization.
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
from segjax.weights.run_folder import describe_state, find_best_step, read_metrics, read_newest
from segjax.weights.tree import CheckpointError, check_variables, describe_differences, flatten

logger = logging.getLogger(__name__)

_SAVED = ("step", "params", "constants", "opt_state", "key", "ema")


class Checkpoints:
    """Checkpoints in one directory. A context manager that waits for a running save at its exit."""

    def __init__(
        self,
        directory: str | pathlib.Path,
        *,
        keep: int = 2,
        best: str = "",
        best_mode: str = "max",
    ) -> None:
        """Opens or makes the directory.

        Args:
          directory: Folder of the checkpoints, one subfolder per step.
          keep: Number of newest checkpoints to keep.
          best: Metric whose best checkpoint is kept too. "": none.
          best_mode: "max" or "min".
        """
        self.directory = pathlib.Path(directory).absolute()
        # A checkpoint is kept if any of the policies preserves it
        policies: list[preservation_policy.PreservationPolicy] = [
            preservation_policy.LatestN(n=keep)
        ]
        self._metrics = read_metrics(self.directory)
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
        """Saved steps, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self, state: TrainState, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Starts to save the state at its step. Returns once the arrays have left the devices.

        A step that is saved already is left alone.

        Args:
          state: The state.
          meta: JSON to save with it. The versions of jax and segjax and the metrics are added.
          metrics: Metrics of the state's evaluation, by which the best checkpoint is chosen.
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
        """Waits until every save is on disk."""
        self._manager.wait_until_finished()

    def restore(
        self, shapes: TrainState, shardings: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest readable checkpoint, on any mesh.

        Unreadable checkpoints are skipped with a warning and moved aside, so that their steps can
        be saved again.

        Args:
          shapes: Shapes of the state.
          shardings: Shardings of the state on the mesh to restore to.

        Returns:
          (state, meta), or None if there is no checkpoint.

        Raises:
          CheckpointError: No checkpoint is readable, or the newest readable one holds another
            model, optimizer state or moving average than `shapes`. Nothing is moved then.
        """
        # Only arrays that are saved, laid out on the new mesh
        target = {
            name: jax.tree.map(
                lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
                getattr(shapes, name),
                getattr(shardings, name),
            )
            for name in _SAVED
        }

        def read(step: int) -> tuple[TrainState, dict[str, Any]]:
            """Reads the state and the metadata of one checkpoint."""
            # Compare first: orbax's own errors do not name the setting that changed
            source = f"checkpoint {self.directory / str(step)}"
            saved = describe_state(self.directory, step)
            check_variables(target, saved, source=source)
            _check_settings(target, saved, source)
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
        result, unreadable = read_newest(self.directory, self.steps, read)
        # Move unreadable checkpoints aside
        for step in unreadable:
            if jax.process_index() == 0:
                aside = self.directory.with_name(f"{self.directory.name}_unreadable")
                aside.mkdir(exist_ok=True)
                (self.directory / str(step)).rename(_free_name(aside / str(step)))
        if unreadable:
            # No process lists the directory before they are moved
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("unreadable checkpoints moved aside")
            self._manager.reload()
        return result


@dataclasses.dataclass
class _Best(preservation_policy.PreservationPolicy):
    """Policy that preserves the best checkpoint by one metric.

    Orbax's own policy forgets the metrics when the run is resumed.
    """

    metrics: Mapping[int, Mapping[str, float]]  # by step, grows with every save
    name: str
    mode: str

    def should_preserve(
        self,
        checkpoints: Sequence[preservation_policy.PolicyCheckpointInfo],
        *,
        context: preservation_policy.PreservationContext,
    ) -> Sequence[bool]:
        existing = {
            checkpoint.step: self.metrics.get(checkpoint.step, {}) for checkpoint in checkpoints
        }
        best = find_best_step(existing, self.name, self.mode)
        return [checkpoint.step == best for checkpoint in checkpoints]


def _check_settings(target: Mapping[str, Any], saved: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError if optimizer state or moving average differ because of a setting."""
    for name, kind, setting in (
        ("opt_state", "optimizer state", "the settings in config.optimizer"),
        ("ema", "moving average", "config.ema_decay"),
    ):
        want = {
            parameter_path(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(target[name])
        }
        if problem := describe_differences(want, flatten(saved[name])):
            raise CheckpointError(
                f"{source} holds another {kind} than this run would: {problem}. Give {setting} the "
                "values that the run began with, or begin another run with its parameters: "
                "config.init_from"
            )


def segjax_version() -> str:
    """Returns the version of the installed package."""
    import importlib.metadata

    try:
        return importlib.metadata.version("segjax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """Returns the path, or the path with a number if it exists."""
    number = 0
    while (candidate := path if number == 0 else path.with_name(f"{path.name}_{number}")).exists():
        number += 1
    return candidate
