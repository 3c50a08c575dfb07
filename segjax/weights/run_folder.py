"""Reading the checkpoints of a training run without its task, mesh or optimizer.

A run's folder holds checkpoints/<step>/{state,meta}, written with orbax by `segjax.training.checkpoints`. Orbax is
imported inside the functions: importing this module costs NumPy alone and starts no device.
"""

import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)

Step = int | Literal["best"] | None  # which checkpoint of a run; None: the newest that can be read


def load_variables(
    directory: str | pathlib.Path, step: Step = None, *, ema: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, config) of a checkpoint, as NumPy arrays and plain dicts.

    Where the run's task has classes, the config has what they are called too, as "classes": see `Task.classes`.

    Args:
      directory: a run's workdir or its checkpoints folder.
      step: None takes the newest that can be read; "best" the one that config.checkpoint.best has kept.
      ema: take the moving average in place of the parameters where the run kept one.

    Raises:
      FileNotFoundError: there is no checkpoint, or none of that step, or the run has kept no best one.
      CheckpointError: none can be read.
    """
    folder = pathlib.Path(directory).absolute()
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = saved_steps(folder)
    if steps and step == "best":
        step = _kept_as_best(folder, steps)
    if not steps or (step is not None and step not in steps):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise FileNotFoundError(
            f"no {wanted} in {folder}; expected a training workdir or its checkpoints folder"
            + (
                f" with one of the steps {steps}"
                if steps
                else ", and found no numbered folder there"
            )
        )

    def read(at: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return _read_step(folder, at, ema)

    return newest_readable(folder, steps if step is None else [step], read)[0]


def saved_steps(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first; empty when it is no folder or holds none."""
    return (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    )


def saved_metrics(folder: pathlib.Path) -> dict[int, dict[str, float]]:
    """By step, what the evaluation found just before a checkpoint was saved; {} where there was none, or no telling."""
    metrics = {}
    for step in saved_steps(folder):
        try:
            metrics[step] = _saved_meta(folder, step).get("metrics", {})
        except Exception:  # noqa: BLE001 - a damaged file surfaces as whatever its reader stumbles over
            metrics[step] = {}
    return metrics


def best_step(metrics: Mapping[int, Mapping[str, float]], name: str, mode: str) -> int | None:
    """The step with the largest ("max") or smallest ("min") finite value of a metric, the newest of equals, or None."""
    sign = 1 if mode == "max" else -1
    ranked = [
        (sign * of[name], step)
        for step, of in metrics.items()
        if math.isfinite(of.get(name, math.nan))
    ]
    return max(ranked)[1] if ranked else None


def saved_tree(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """The state saved at a step as nested dicts of array descriptions (shape, dtype); reads no array."""
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler().metadata(directory / str(step) / "state").tree


def newest_readable(
    directory: pathlib.Path, steps: list[int], read: Callable[[int], Any]
) -> tuple[Any, list[int]]:
    """(`read(step)` of the newest step that can be read, the newer ones that cannot, each warned about)."""
    unreadable: dict[int, str] = {}
    for step in sorted(steps, reverse=True):
        try:
            result = read(step)
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001 - a damaged file surfaces as whatever its reader stumbles over
            unreadable[step] = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            )
            logger.warning(
                "checkpoint %s is corrupt or half-written and is passed over (%s)",
                directory / str(step),
                unreadable[step][:300],
            )
            continue
        return result, list(unreadable)
    reasons = "; ".join(f"{step}: {reason[:300]}" for step, reason in unreadable.items())
    raise CheckpointError(f"none of the checkpoints in {directory} can be read ({reasons})")


def _kept_as_best(folder: pathlib.Path, steps: list[int]) -> int:
    config, _ = newest_readable(folder, steps, lambda step: _saved_meta(folder, step)["config"])
    options = config.get("checkpoint", {})
    name = options.get("best")
    if not name:
        raise FileNotFoundError(
            f"no best checkpoint in {folder}: the run was not told what to judge by (config.checkpoint.best, for "
            f"example 'iou@1'); it has the steps {steps}"
        )
    best = best_step(saved_metrics(folder), name, options.get("best_mode", "max"))
    if best is None:
        raise FileNotFoundError(
            f"no best checkpoint in {folder}: none of its steps {steps} was saved after an evaluation that gave "
            f"{name!r}"
        )
    return best


def _saved_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    return ocp.JsonCheckpointHandler().restore(folder / str(step) / "meta")


def _read_step(folder: pathlib.Path, step: int, ema: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    import orbax.checkpoint as ocp

    tree = saved_tree(folder, step)
    name = "ema" if ema and tree.get("ema") is not None else "params"
    wanted = {name: tree[name], "constants": tree["constants"]}
    handler = ocp.PyTreeCheckpointHandler()
    arrays = handler.restore(
        folder / str(step) / "state",
        args=ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=_map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted),
            partial_restore=True,
        ),
    )
    meta = _saved_meta(folder, step)
    saved = meta["config"] | ({"classes": meta["classes"]} if "classes" in meta else {})
    return {"params": arrays[name], "constants": arrays["constants"]}, saved


def _map(function: Callable, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map(function, child) for name, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(function, child) for child in tree)
    return None if tree is None else function(tree)
