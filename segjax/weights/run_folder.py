"""Reading the checkpoints of a training run without its task, mesh or optimizer.

A run's folder holds checkpoints/<step>/{state,meta}, written with orbax by `segjax.training.checkpoints`. Orbax is
imported inside the functions: importing this module costs NumPy alone and starts no device.
"""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)


def load_variables(
    directory: str | pathlib.Path, step: int | None = None, *, ema: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, config) of a checkpoint, as NumPy arrays and plain dicts.

    Args:
      directory: a run's workdir or its checkpoints folder.
      step: None takes the newest that can be read.
      ema: take the moving average in place of the parameters where the run kept one.

    Raises:
      FileNotFoundError: there is no checkpoint, or none of that step.
      CheckpointError: none can be read.
    """
    folder = pathlib.Path(directory).absolute()
    folder = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    steps = saved_steps(folder)
    if not steps or (step is not None and step not in steps):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise FileNotFoundError(
            f"no {wanted} in {folder}; expected a training workdir or its checkpoints folder"
            + (f" with one of the steps {steps}" if steps else ", and found no numbered folder there")
        )

    def read(at: int) -> tuple[dict[str, Any], dict[str, Any]]:
        return _read_step(folder, at, ema)

    return newest_readable(folder, steps if step is None else [step], read)[0]


def saved_steps(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first; empty when it is no folder or holds none."""
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def saved_tree(directory: pathlib.Path, step: int) -> dict[str, Any]:
    """The state saved at a step as nested dicts of array descriptions (shape, dtype); reads no array."""
    import orbax.checkpoint as ocp

    return ocp.PyTreeCheckpointHandler().metadata(directory / str(step) / "state").tree


def newest_readable(directory: pathlib.Path, steps: list[int], read: Callable[[int], Any]) -> tuple[Any, list[int]]:
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
    meta = ocp.JsonCheckpointHandler().restore(folder / str(step) / "meta")
    return {"params": arrays[name], "constants": arrays["constants"]}, meta["config"]


def _map(function: Callable, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map(function, child) for name, child in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(function, child) for child in tree)
    return None if tree is None else function(tree)
