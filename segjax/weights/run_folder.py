"""Reads the checkpoints of a training run without its task, mesh or optimizer.

A run's folder holds checkpoints/<step>/{state,optimizer,meta,checksums.json}, which
`segjax.training.checkpoints` writes with orbax. All files are compared with their checksums before
anything is loaded. Orbax is imported inside the functions, so importing this module needs NumPy
alone and starts no device.
"""

import functools
import logging
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from segjax.weights import checksums
from segjax.weights.run_meta import find_best_step, list_steps, read_meta, read_metrics
from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)

OPTIMIZER = "optimizer"  # part of a checkpoint that only a resumed run reads

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
      CheckpointError: all are damaged, or the one that `step` asks for.
    """
    # Find the step
    folder = pathlib.Path(directory).absolute()
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = list_steps(folder)
    chosen = step is not None
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

    verify = functools.partial(find_damage, skip=OPTIMIZER)
    if chosen:
        return read_newest(folder, [step], read, verify=verify)[0]
    while True:
        try:
            return read_newest(folder, steps, read, verify=verify)[0]
        except CheckpointError:
            # A run in progress deletes old checkpoints, perhaps those that were being read
            before, steps = steps, list_steps(folder)
            if not steps or steps[-1] <= before[-1]:
                raise


def describe_state(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """Returns the state of a step as nested dicts of shapes and dtypes. Reads no array."""
    import orbax.checkpoint as ocp

    read = ocp.PyTreeCheckpointHandler().metadata
    state = read(directory / str(step) / "state").tree
    # Checkpoints of earlier versions have no part of its own for the optimizer
    if (apart := directory / str(step) / OPTIMIZER).is_dir():
        state = {**state, "opt_state": read(apart).tree["opt_state"]}
    return state


def find_damage(
    folder: pathlib.Path, step: int, *, share: tuple[int, int] = (0, 1), skip: str = ""
) -> str:
    """Compares a checkpoint with the checksums that were written when it was saved.

    Checkpoints of earlier versions have no checksums. They pass, with a message for the log.

    Args:
      folder: folder of the checkpoints.
      step: the checkpoint.
      share: (index, count) of the process, if several processes divide the bytes among themselves.
      skip: subfolder whose files are only counted and measured, because they are not read.

    Returns:
      A clause that describes the first difference, or "".
    """
    path = folder / str(step)
    if (path / checksums.CHECKSUMS_FILE).exists():
        return checksums.find_damage(path, share=share, skip=skip)
    try:
        read_meta(folder, step)
    except (OSError, ValueError) as error:
        return str(error)
    logger.info("checkpoint %s was saved without checksums and cannot be verified", path)
    return ""


def read_newest(
    directory: pathlib.Path,
    steps: list[int],
    read: Callable[[int], Any],
    *,
    verify: Callable[[pathlib.Path, int], str] = find_damage,
    consequence: str = "passed over",
) -> tuple[Any, list[int]]:
    """Reads the newest undamaged checkpoint, and warns about newer ones that are damaged.

    Args:
      directory: folder of the checkpoints, for messages.
      steps: steps to try.
      read: called with a step.
      verify: called with `directory` and a step before `read`. Returns the damage, or "".
      consequence: fate of a damaged checkpoint, for the warning.

    Returns:
      result: `read(step)` of the newest undamaged step.
      damaged: newer steps.

    Raises:
      CheckpointError: all are damaged. The message describes the damage of each.
    """
    damaged: dict[int, str] = {}
    for step in sorted(steps, reverse=True):
        if damage := verify(directory, step):
            damaged[step] = damage
            continue
        try:
            result = read(step)
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001 - damaged files raise all kinds of errors
            first_line = str(error).strip().splitlines()[0] if str(error) else ""
            reason = f"{type(error).__name__}: {first_line}"[:300]
            if (directory / str(step) / checksums.CHECKSUMS_FILE).exists():
                # The files are as they were saved, so another checkpoint would fail alike
                raise CheckpointError(
                    f"checkpoint {directory / str(step)} is undamaged but cannot be loaded: "
                    f"{reason}"
                ) from error
            damaged[step] = reason
            continue
        for number, damage in damaged.items():
            logger.warning(
                "checkpoint %s is damaged and %s (%s); the checkpoint of step %d is used",
                *(directory / str(number), consequence, damage, step),
            )
        return result, list(damaged)
    if len(steps) == 1:
        (step,) = steps
        others = [other for other in list_steps(directory) if other != step]
        hint = f"; the other steps are {others}" if others else ""
        raise CheckpointError(
            f"checkpoint {directory / str(step)} is damaged: {damaged[step]}{hint}"
        )
    reasons = "; ".join(f"{step}: {damage}" for step, damage in damaged.items())
    raise CheckpointError(f"all checkpoints in {directory} are damaged ({reasons})")


def _find_best(folder: pathlib.Path, steps: list[int]) -> int:
    """Returns the step that config.checkpoint.best selects."""
    metrics, damaged = read_metrics(folder)
    if not metrics:
        reasons = "; ".join(f"{step}: {damage}" for step, damage in damaged.items())
        raise CheckpointError(f"all checkpoints in {folder} are damaged ({reasons})")
    options = read_meta(folder, max(metrics))["config"].get("checkpoint", {})
    name = options.get("best")
    if not name:
        raise FileNotFoundError(
            f"no best checkpoint in {folder}: the run was not told what to judge by "
            f"(config.checkpoint.best, for example 'iou@1'); it has the steps {steps}"
        )
    best = find_best_step(metrics, name, options.get("best_mode", "max"))
    if best is None:
        raise FileNotFoundError(
            f"no best checkpoint in {folder}: none of its steps {steps} was saved after an "
            f"evaluation that gave {name!r}"
        )
    for step, damage in damaged.items():
        logger.warning(
            "checkpoint %s is damaged and cannot be the best (%s)", folder / str(step), damage
        )
    return best


def _read_step(folder: pathlib.Path, step: int, ema: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns variables and config of one step. Reads only the arrays that are wanted."""
    import orbax.checkpoint as ocp

    # The moving average replaces the parameters
    tree = ocp.PyTreeCheckpointHandler().metadata(folder / str(step) / "state").tree
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
    meta = read_meta(folder, step)
    saved = meta["config"] | ({"classes": meta["classes"]} if "classes" in meta else {})
    return {"params": arrays[name], "constants": arrays["constants"]}, saved


def _map(function: Callable, tree: Any) -> Any:
    """Applies a function to the leaves of nested dicts, lists and tuples, but not to None."""
    if isinstance(tree, dict):
        return {name: _map(function, child) for name, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(function, child) for child in tree)
    return None if tree is None else function(tree)
