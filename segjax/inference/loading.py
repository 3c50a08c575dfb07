"""From a name or a path to a model and its variables."""

import difflib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from segjax.models.sam.build import SIZES, build_sam, init_sam
from segjax.models.sam.sam import Sam
from segjax.weights.run_folder import Step, load_variables
from segjax.weights.safetensors import read_variables
from segjax.weights.tree import CheckpointError, check_variables, flatten, unflatten

_PYTORCH = (".pth", ".pt", ".bin", ".ckpt")


def available_models() -> list[str]:
    """Names that `load` and the experiments' `config.model.name` understand."""
    return list(SIZES)


def load(
    model: str | os.PathLike, path: str | os.PathLike | None = None, *, step: Step = None, **overrides: Any
) -> tuple[Sam, dict[str, Any]]:
    """A model and its variables, ready for `SamPredictor` or `model.apply`.

    load("runs/quickstart")                 whatever that run trained; its moving average where it kept one
    load("weights.safetensors")             a file that segjax wrote and that names its model
    load("sam_tiny", "runs/quickstart")     the same by name: an error unless every array fits

    Args:
      model: a name of `available_models()`, or, without `path`, a path.
      path: a run's workdir, its checkpoints folder, or a .safetensors file written by segjax.
      step: which checkpoint of a run; None: the newest that can be read; "best": the one that the run's
        config.checkpoint.best has kept.
      overrides: attributes of the model to replace, such as dtype="bfloat16" or attention="xla".

    Returns:
      The linen module, and {"params", "constants"}: nested dicts of float32 arrays on the default device.

    Raises:
      FileNotFoundError: nothing there, no checkpoint of that step, or none kept as the best.
      CheckpointError: what is there is no checkpoint, or is one of another architecture (missing, unexpected and
        misshapen arrays are counted and the first few listed).
      ValueError: unknown model or attribute; names the nearest ones.
    """
    network, variables, _ = load_with_config(model, path, step=step, **overrides)
    return network, variables


def load_with_config(
    model: str | os.PathLike, path: str | os.PathLike | None = None, *, step: Step = None, **overrides: Any
) -> tuple[Sam, dict[str, Any], dict[str, Any]]:
    """`load`, and third what the checkpoint says of itself: a run's whole config, or a safetensors file's metadata."""
    source = _source(os.fspath(model), path)
    name = None if path is None else os.fspath(model)
    variables, saved = read_checkpoint(source, step)
    network = build_sam(**_options(name, saved, overrides, source))
    expected = jax.eval_shape(lambda: init_sam(network, jax.random.key(0)))
    check_variables(expected, variables, source=f"checkpoint {source}")
    dtypes = {place: leaf.dtype for place, leaf in flatten(expected).items()}
    cast = {place: array.astype(dtypes[place]) for place, array in flatten(variables).items()}
    return network, jax.device_put(unflatten(cast)), saved


def read_checkpoint(path: pathlib.Path, step: Step = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables as NumPy arrays, config) of whatever kind of checkpoint is at a path.

    The config is the run's own, or a safetensors file's metadata; both describe the model under "model".
    Raises as `load`.
    """
    if path.suffix == ".safetensors":
        if step is not None:
            raise ValueError(f"{path} is a single file, it has no step {step}; leave step out")
        return read_variables(path)
    if path.suffix in _PYTORCH:
        raise CheckpointError(
            f"{path} looks like a PyTorch checkpoint; this version of segjax reads its own runs and .safetensors files "
            "only"
        )
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file of an unknown kind; expected a training workdir, its checkpoints folder, or a "
            ".safetensors file written by segjax"
        )
    if not path.is_dir():
        raise FileNotFoundError(
            f"no checkpoint at {path}: there is no such file or folder; expected a training workdir, its checkpoints "
            "folder, or a .safetensors file"
        )
    return load_variables(path, step)


def _source(name: str, path: str | os.PathLike | None) -> pathlib.Path:
    """The path to read. Raises ValueError or FileNotFoundError that says what is missing."""
    if path is not None:
        if name not in SIZES:
            build_sam(name)  # its error names the nearest
        return pathlib.Path(path)
    if name in SIZES:
        raise ValueError(
            f"{name!r} is the name of an architecture; say which weights: segjax.load({name!r}, path) with a run's "
            "workdir or a .safetensors file. For untrained variables use build_sam and init_sam of "
            "segjax.models.sam.build"
        )
    if not os.path.exists(name):
        near = difflib.get_close_matches(name, SIZES, 1)
        raise FileNotFoundError(
            f"{name!r} is neither a file or folder nor a known model"
            + (f" (nearest: {near[0]})" if near else "")
            + f"; models: {', '.join(SIZES)}"
        )
    return pathlib.Path(name)


def _options(name: str | None, saved: Mapping[str, Any], overrides: Mapping[str, Any], path: pathlib.Path) -> dict:
    """What to build: the saved options where the names agree, else the named model's own."""
    described = saved.get("model")
    described = dict(described) if isinstance(described, Mapping) else {}
    if name is None and "name" not in described:
        raise CheckpointError(
            f"{path} does not say which model it holds; name it: segjax.load(name, {str(path)!r}) with one of "
            f"{', '.join(SIZES)}"
        )
    if name is not None and described.get("name") != name:
        described = {"name": name}
    return described | dict(overrides)
