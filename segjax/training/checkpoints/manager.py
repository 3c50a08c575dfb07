"""Checkpoints of a run: state and config together, saved in the background, restored on any mesh.

The parameters of a run come from, in this order:
1. its own newest undamaged checkpoint, with the rest of the state,
2. `config.init_from`: another run, or some parameters of another kind of model,
3. the task's initialization.
"""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from segjax.training.checkpoints.saving import (
    SAVED,
    KeepBest,
    SealedFolder,
    delete_unfinished,
    divide_state,
    drop_traceback,
    silence_orbax,
)
from segjax.training.interruption import share_text
from segjax.training.optimizer import parameter_path
from segjax.training.state import TrainState
from segjax.weights.run_folder import OPTIMIZER, describe_state, find_damage, read_newest
from segjax.weights.run_meta import read_metrics
from segjax.weights.tree import CheckpointError, check_variables, describe_differences, flatten

logger = logging.getLogger(__name__)


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
        """Opens or makes the directory. Deletes saves that did not finish.

        Args:
          directory: Folder of the checkpoints, one subfolder per step.
          keep: Number of newest checkpoints to keep.
          best: Metric whose best checkpoint is kept too. "": none.
          best_mode: "max" or "min".
        """
        self.directory = pathlib.Path(directory).absolute()
        logging.getLogger("absl").addFilter(drop_traceback)
        if jax.process_index() == 0:
            delete_unfinished(self.directory)
        # A checkpoint is kept if any of the policies preserves it
        policies: list[preservation_policy.PreservationPolicy] = [
            preservation_policy.LatestN(n=keep)
        ]
        self._metrics, unknown = read_metrics(self.directory)
        # Without those that a killed run has partly deleted
        self._unknown = {
            step: error
            for step, error in unknown.items()
            if not isinstance(error, FileNotFoundError)
        }
        if best:
            policies.append(KeepBest(self._metrics, best, best_mode))
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                temporary_path_class=SealedFolder,
            ),
            item_names=("state", OPTIMIZER, "meta"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            self._manager.close()
        except Exception as error:
            # The error that ends the run comes first
            if kind is None:
                raise
            logger.error("the last save failed: %s", error)
        finally:
            logging.getLogger("absl").removeFilter(drop_traceback)

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
        added = {"versions": versions, "metrics": self._metrics[step], "checksums": True}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave({**meta, **added}),
                **{
                    item: ocp.args.StandardSave({name: getattr(state, name) for name in names})
                    for item, names in divide_state(apart=True).items()
                },
            ),
            force=True,
        )

    def wait(self) -> None:
        """Waits until every save is on disk."""
        self._manager.wait_until_finished()

    def restore(
        self, shapes: TrainState, shardings: TrainState
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest undamaged checkpoint, on any mesh.

        Damaged checkpoints are moved aside with a warning, so that their steps can be saved again.

        Args:
          shapes: Shapes of the state.
          shardings: Shardings of the state on the mesh to restore to.

        Returns:
          (state, meta), or None if there is no checkpoint.

        Raises:
          CheckpointError: All checkpoints are damaged, or the newest undamaged one holds another
            model, optimizer state or moving average than `shapes`. Nothing is moved then.
        """
        # Only arrays that are saved, laid out on the new mesh
        target = {
            name: jax.tree.map(
                lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
                getattr(shapes, name),
                getattr(shardings, name),
            )
            for name in SAVED
        }

        def read(step: int) -> tuple[TrainState, dict[str, Any]]:
            """Reads the state and the metadata of one checkpoint."""
            # Compare first: orbax's own errors do not name the setting that changed
            source = f"checkpoint {self.directory / str(step)}"
            saved = describe_state(self.directory, step)
            check_variables(target, saved, source=source)
            _check_settings(target, saved, source)
            # Earlier versions saved the optimizer state together with the parameters
            items = divide_state(apart=(self.directory / str(step) / OPTIMIZER).is_dir())
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    meta=ocp.args.JsonRestore(),
                    **{
                        item: ocp.args.StandardRestore({name: target[name] for name in names})
                        for item, names in items.items()
                    },
                ),
            )
            state = {name: array for item in items for name, array in restored[item].items()}
            state["finite"] = jax.device_put(np.True_, shardings.finite)
            return shapes.replace(**state), restored.meta

        if not self.steps:
            return None
        aside = self.directory.with_name(f"{self.directory.name}_unreadable")
        with silence_orbax():
            result, damaged = read_newest(
                self.directory,
                self.steps,
                read,
                verify=_find_damage_together,
                consequence=f"moved to {aside}",
            )
        # Older ones whose metrics are damaged could be the best, and would be deleted
        for step in self._unknown.keys() - set(damaged):
            logger.warning(
                "checkpoint %s is damaged and moved to %s (%s)",
                *(self.directory / str(step), aside, self._unknown[step]),
            )
            damaged.append(step)
        self._move(damaged, aside)
        return result

    def _move(self, steps: Sequence[int], folder: pathlib.Path) -> None:
        """Moves checkpoints to another folder. Every process must call it."""
        if not steps and jax.process_count() == 1:
            return
        if jax.process_index() == 0:
            for step in steps:
                folder.mkdir(exist_ok=True)
                (self.directory / str(step)).rename(_free_name(folder / str(step)))
        # No process lists the directory before they are moved
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints moved aside")
        self._manager.reload()


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


def _find_damage_together(directory: pathlib.Path, step: int) -> str:
    """Verifies a checkpoint, each process a part of its bytes, and returns the damage to all."""
    return share_text(
        find_damage(directory, step, share=(jax.process_index(), jax.process_count()))
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
