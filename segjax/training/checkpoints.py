"""Checkpoints of a run: state and config together, written in the background, read back on any mesh.

Where a run's parameters come from, in this order: its own newest readable checkpoint (everything is resumed),
else `config.init_from` (parameters and constants of another run), else the task's initialisation.
"""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from segjax.training.optimizer import parameter_path
from segjax.training.state import TrainState

logger = logging.getLogger(__name__)

_SAVED = ("step", "params", "constants", "opt_state", "key", "ema")


class CheckpointError(ValueError):
    """No checkpoint can be read, or the one there is holds other parameters than asked for."""


class Checkpoints:
    """The checkpoints in one directory. A context manager: leaving it waits for the save under way.

    keep: newest checkpoints kept; best: name of a metric whose best checkpoint is kept too ("": none);
    best_mode: "max" or "min".
    """

    def __init__(self, directory: str | pathlib.Path, *, keep: int = 2, best: str = "", best_mode: str = "max") -> None:
        self.directory = pathlib.Path(directory).absolute()
        policies: list[preservation_policy.PreservationPolicy] = [preservation_policy.LatestN(n=keep)]
        if best:
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics[best],
                    reverse=best_mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._best = best
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

    def save(self, state: TrainState, meta: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Starts a save of the state at its step; returns once the arrays are copied off the devices.

        meta: JSON; the versions of jax and segjax are added. A step that is saved already is left alone.
        """
        step = int(jax.device_get(state.step))
        if step in self._manager.all_steps():
            return
        meta = {
            **meta,
            "versions": {"segjax": segjax_version(), "jax": jax.__version__},
            "metrics": metrics or {},
        }
        ranked = {self._best: float(metrics[self._best])} if metrics and self._best in metrics else None
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave({name: getattr(state, name) for name in _SAVED}),
                meta=ocp.args.JsonSave(meta),
            ),
            metrics=ranked,
            force=True,
        )

    def wait(self) -> None:
        """Returns when every save is on disk."""
        self._manager.wait_until_finished()

    def restore(self, shapes: TrainState, shardings: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """(state on the mesh of `shardings`, meta) of the newest checkpoint that can be read; None if there is none.

        A checkpoint that cannot be read is passed over with a warning and moved aside, so that its step can
        be saved again. Raises CheckpointError when none can be read, or when the parameters are of another
        model.
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
            for name in ("params", "constants"):
                check_parameters(target[name], found[name], source=source, kind=name)
            item = self._manager.restore(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()),
            )
            return shapes.replace(**item.state, finite=jax.device_put(np.True_, shardings.finite)), item.meta

        if not self.steps:
            return None
        result, unreadable = newest_readable(self.directory, self.steps, read)
        for step in unreadable:
            if jax.process_index() == 0:
                aside = self.directory.with_name(f"{self.directory.name}_unreadable")
                aside.mkdir(exist_ok=True)
                (self.directory / str(step)).rename(_free_name(aside / str(step)))
        if unreadable:
            self._manager.reload()
        return result


def load_variables(
    directory: str | pathlib.Path, step: int | None = None, *, ema: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, config) of a checkpoint, as NumPy arrays and plain dicts: no task, mesh or optimizer needed.

    directory: a run's workdir or its checkpoints folder. step: None takes the newest that can be read.
    ema: take the moving average in place of the parameters where the run kept one.
    Raises FileNotFoundError when there is no checkpoint, CheckpointError when none can be read.
    """
    folder = pathlib.Path(directory).absolute()
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise FileNotFoundError(
            f"no {wanted.removeprefix('a ')} in {folder}; expected a training workdir or its checkpoints folder"
            + (f" with one of the steps {steps}" if steps else ", and found no numbered folder there")
        )

    def read(at: int) -> tuple[dict[str, Any], dict[str, Any]]:
        tree = saved_tree(folder, at)
        wanted = {"params": tree["params"], "constants": tree["constants"]}
        if ema and tree.get("ema") is not None:
            wanted = {"ema": tree["ema"], "constants": tree["constants"]}
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arrays = ocp.PyTreeCheckpointHandler().restore(
            folder / str(at) / "state",
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=args, partial_restore=True),
        )
        meta = ocp.JsonCheckpointHandler().restore(folder / str(at) / "meta")
        params = arrays["ema"] if "ema" in arrays else arrays["params"]
        return {"params": params, "constants": arrays["constants"]}, meta["config"]

    return newest_readable(folder, steps if step is None else [step], read)[0]


def newest_readable(directory: pathlib.Path, steps: list[int], read: Any) -> tuple[Any, list[int]]:
    """(`read(step)` of the newest step that can be read, the newer ones that cannot, each warned about)."""
    unreadable: dict[int, str] = {}
    for step in sorted(steps, reverse=True):
        try:
            result = read(step)
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged file surfaces as whatever its reader stumbles over
            unreadable[step] = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            logger.warning(
                "checkpoint %s is corrupt or half-written and is passed over (%s)",
                directory / str(step),
                unreadable[step][:300],
            )
            continue
        return result, list(unreadable)
    reasons = "; ".join(f"{step}: {reason[:300]}" for step, reason in unreadable.items())
    raise CheckpointError(f"none of the checkpoints in {directory} can be read ({reasons})")


def saved_tree(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """The state saved at a step as nested dicts of array descriptions (shape, dtype); reads no array."""
    return ocp.PyTreeCheckpointHandler().metadata(directory / str(step) / "state").tree


def check_parameters(expected: Any, found: Any, *, source: str, kind: str = "params", first: int = 5) -> None:
    """Raises CheckpointError unless two trees have the same paths and shapes.

    The message counts and lists the missing (expected, not found), unexpected and misshapen arrays.
    """
    want, have = _shapes(expected), _shapes(found)
    problems = {
        "missing": [f"{p} {want[p]}" for p in want if p not in have],
        "unexpected": [f"{p} {have[p]}" for p in have if p not in want],
        "misshapen": [f"{p} is {have[p]}, expected {want[p]}" for p in want if p in have and have[p] != want[p]],
    }
    if any(problems.values()):
        lines = [
            f"{len(names)} {problem}: {', '.join(names[:first])}{', ...' if len(names) > first else ''}"
            for problem, names in problems.items()
            if names
        ]
        raise CheckpointError(f"{source} is of another architecture; its {kind} differ: " + "; ".join(lines))


def segjax_version() -> str:
    """Version of the installed package."""
    import importlib.metadata

    try:
        return importlib.metadata.version("segjax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {parameter_path(path): tuple(leaf.shape) for path, leaf in leaves}


def _free_name(path: pathlib.Path) -> pathlib.Path:
    number = 0
    while (candidate := path if number == 0 else path.with_name(f"{path.name}_{number}")).exists():
        number += 1
    return candidate
