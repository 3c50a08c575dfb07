"""Reads the checkpoints of a training run without its task, mesh or optimizer.

A run's folder holds checkpoints/<step>/{state,meta}, which `segjax.training.checkpoints` writes
with orbax. Orbax is imported inside the functions, so importing this module needs NumPy alone and
starts no device.
"""

import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)

Step = int | Literal["best"] | None  # checkpoint of a run. None: the newest that can be read.


def load_variables(
    directory: str | pathlib.Path, step: Step = None, *, ema: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads variables and config of a run's checkpoint, as NumPy arrays and plain dicts.

    Example:
      variables, config = load_variables("runs/quickstart", step="best")

    Args:
      directory: a run's workdir or its checkpoints folder.
      step: number of steps, "best" for the one that config.checkpoint.best keeps, or None for the
        newest that can be read.
      ema: load the exponential moving average in place of the parameters, if there is one.

    Returns:
      variables: {"params", "constants"}.
      config: the run's config, with the entry "classes" if the task has classes (see
        `segjax.training.task.Task.describe_classes`).

    Raises:
      FileNotFoundError: no checkpoint, none of that step, or no best one.
      CheckpointError: none can be read.
    """
    # Find the step
    folder = pathlib.Path(directory).absolute()
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = list_steps(folder)
    if steps and step == "best":
        step = _find_best(folder, steps)
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

    return read_newest(folder, steps if step is None else [step], read)[0]


def list_steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, oldest first, [] if there are none."""
    return (
        sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []
    )


def read_metrics(folder: pathlib.Path) -> dict[int, dict[str, float]]:
    """Returns step -> metrics of the evaluation before each checkpoint, {} if there was none."""
    metrics = {}
    for step in list_steps(folder):
        try:
            metrics[step] = _read_meta(folder, step).get("metrics", {})
        except Exception:  # noqa: BLE001 - damaged files raise all kinds of errors
            metrics[step] = {}
    return metrics


def find_best_step(metrics: Mapping[int, Mapping[str, float]], name: str, mode: str) -> int | None:
    """Returns the step with the best finite value of a metric, the newest of equals.

    Args:
      metrics: step -> metrics.
      name: metric.
      mode: "max" or "min".

    Returns:
      The step, None if no step has the metric.
    """
    sign = 1 if mode == "max" else -1
    ranked = [
        (sign * of[name], step)
        for step, of in metrics.items()
        if math.isfinite(of.get(name, math.nan))
    ]
    return max(ranked)[1] if ranked else None


def describe_state(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns the state of a step as nested dicts of shapes and dtypes. Reads no array."""
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler().metadata(directory / str(step) / "state").tree


def read_newest(
    directory: pathlib.Path, steps: list[int], read: Callable[[int], Any]
) -> tuple[Any, list[int]]:
    """Reads the newest checkpoint that can be read, and warns about newer ones that cannot.

    Args:
      directory: folder of the checkpoints, for messages.
      steps: steps to try, newest first.
      read: called with a step.

    Returns:
      result: `read(step)` of the newest readable step.
      unreadable: newer steps.

    Raises:
      CheckpointError: none can be read.
    """
    unreadable: dict[int, str] = {}
    for step in sorted(steps, reverse=True):
        try:
            result = read(step)
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001 - damaged files raise all kinds of errors
            first_line = str(error).strip().splitlines()[0] if str(error) else ""
            unreadable[step] = f"{type(error).__name__}: {first_line}"
            logger.warning(
                "checkpoint %s is corrupt or half-written and is passed over (%s)",
                directory / str(step),
                unreadable[step][:300],
            )
            continue
        return result, list(unreadable)
    reasons = "; ".join(f"{step}: {reason[:300]}" for step, reason in unreadable.items())
    raise CheckpointError(f"none of the checkpoints in {directory} can be read ({reasons})")


def _find_best(folder: pathlib.Path, steps: list[int]) -> int:
    config, _ = read_newest(folder, steps, lambda step: _read_meta(folder, step)["config"])
    options = config.get("checkpoint", {})
    name = options.get("best")
    if not name:
        raise FileNotFoundError(
            f"no best checkpoint in {folder}: the run was not told what to judge by "
            f"(config.checkpoint.best, for example 'iou@1'); it has the steps {steps}"
        )
    best = find_best_step(read_metrics(folder), name, options.get("best_mode", "max"))
    if best is None:
        raise FileNotFoundError(
            f"no best checkpoint in {folder}: none of its steps {steps} was saved after an "
            f"evaluation that gave {name!r}"
        )
    return best


def _read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns config, metrics and class names of a checkpoint."""
    import orbax.checkpoint as ocp

    return ocp.JsonCheckpointHandler().restore(folder / str(step) / "meta")


def _read_step(folder: pathlib.Path, step: int, ema: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns variables and config of one step. Reads only the arrays that are wanted."""
    import orbax.checkpoint as ocp

    # The moving average replaces the parameters
    tree = describe_state(folder, step)
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
    meta = _read_meta(folder, step)
    saved = meta["config"] | ({"classes": meta["classes"]} if "classes" in meta else {})
    return {"params": arrays[name], "constants": arrays["constants"]}, saved


def _map(function: Callable, tree: Any) -> Any:
    """Applies a function to the leaves of nested dicts, lists and tuples, but not to None."""
    if isinstance(tree, dict):
        return {name: _map(function, child) for name, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(function, child) for child in tree)
    return None if tree is None else function(tree)
