"""Files of adapters alone: small, and put on top of the weights that a run started from.

A file holds the trained arrays of the run (adapters, and for example SAM's mask decoder), and a
checksum of the frozen ones. It is a .safetensors file of ours with "adapter" in its metadata.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.adapters.low_rank import LORA, SCALE_PATH
from segjax.weights.adapters.merge import has_adapters, merge_adapters
from segjax.weights.safetensors import read_variables, save_variables
from segjax.weights.tree import CheckpointError, flatten, unflatten


def save_adapter(
    path: str | os.PathLike,
    arrays: Mapping[str, Any],
    constants: Mapping[str, Any],
    options: Mapping[str, Any],
) -> int:
    """Writes the trained arrays of a run to a file, and returns their number.

    Args:
      path: .safetensors file.
      arrays: {"params", "constants"} of the run, with adapters.
      constants: the constants that belong to the model itself, of anything. All others in `arrays`
        are frozen parameters.
      options: options of `build_model`, among them "name".

    Raises:
      ValueError: the run has no adapters.
    """
    if not has_adapters(arrays):
        raise ValueError(
            "these weights have no adapters: they come from a run with config.trainable='lora'"
        )
    frozen = dict(flatten(arrays["constants"]))
    scale = frozen.pop(SCALE_PATH)
    for name in flatten(constants):
        frozen.pop(name, None)
    trained = flatten(arrays["params"])
    variables = {
        "params": unflatten(trained),
        "constants": {"lora": {"scale": np.asarray(scale, np.float32)}},
    }
    described = {"base": hash_arrays(frozen), "frozen": len(frozen)}
    save_variables(path, variables, {"model": dict(options), "adapter": described})
    return len(trained)


def hash_arrays(arrays: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the names, shapes and float32 values of arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], np.float32, order="C")
        digest.update(f"{name} {array.shape};".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def read_adapter(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a file of `save_adapter`: its variables and its metadata.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: another kind of file.
    """
    variables, metadata = read_variables(path)
    described, model = metadata.get("adapter"), metadata.get("model")
    if (
        not has_adapters(variables)
        or not isinstance(described, dict)
        or not isinstance(model, dict)
    ):
        raise CheckpointError(
            f"{path} holds no adapters; expected a file of `segjax convert RUN FILE --lora`"
        )
    return variables, metadata


def apply_adapter(
    variables: Mapping[str, Any],
    adapter: Mapping[str, Any],
    metadata: Mapping[str, Any],
    *,
    source: str,
) -> dict[str, Any]:
    """Puts the arrays of an adapter file on top of a model's variables.

    Args:
      variables: {"params", "constants"} that the adapters were trained on.
      adapter: variables of `read_adapter`.
      metadata: metadata of `read_adapter`, {} for a file that has none.
      source: name of the file for messages.

    Returns:
      {"params", "constants"} of the same arrays, with adapters merged.

    Raises:
      CheckpointError: the adapters were trained on other weights or another model.
    """
    params, trained = flatten(variables["params"]), flatten(adapter["params"])
    own = {path for path in trained if not path.startswith(f"{LORA}/")}
    if not metadata:  # a file of SAMed does not say what it was trained on
        return merge_adapters(_overlay(variables, adapter), source=source)
    if strange := sorted(own - params.keys()):
        raise CheckpointError(f"{source} has {strange[0]}, which the model does not have")
    if wrong := [path for path in sorted(own) if trained[path].shape != params[path].shape]:
        raise CheckpointError(
            f"{source} has {wrong[0]} of shape {trained[wrong[0]].shape}; the model's is "
            f"{params[wrong[0]].shape}"
        )
    base = hash_arrays({path: array for path, array in params.items() if path not in own})
    if base != metadata["adapter"].get("base"):
        raise CheckpointError(
            f"{source} was trained on other weights: their SHA-256 is "
            f"{str(metadata['adapter'].get('base'))[:16]}..., that of these frozen arrays "
            f"{base[:16]}...; load the weights that its run started from"
        )
    return merge_adapters(_overlay(variables, adapter), source=source)


def _overlay(variables: Mapping[str, Any], adapter: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays of both, those of the adapter first."""
    return {
        name: unflatten(flatten(variables[name]) | flatten(adapter[name]))
        for name in ("params", "constants")
    }
