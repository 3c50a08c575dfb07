"""`.safetensors` files: ours (arrays by path, the model's name and options in the header), and anybody's.

The library of that name is imported inside the functions; it needs NumPy alone.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.files import atomic_path
from segjax.weights.tree import CheckpointError, flatten, unflatten

FORMAT = "segjax"


def save_variables(
    path: str | pathlib.Path, variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    """Writes variables to a file, whole or not at all.

    Args:
      path: of the file; missing folders are made.
      variables: {"params", "constants"}, nested dicts of arrays, the canonical tree.
      metadata: JSON; `{"model": {"name": "sam_tiny", ...options}}` lets `segjax.load(path)` build the model.

    Raises:
      ValueError: variables without "params".
    """
    if "params" not in variables:
        raise ValueError(
            f"variables are {sorted(variables)}; expected {{'params': ..., 'constants': ...}}"
        )
    write_arrays(
        path, flatten(dict(variables)), {"format": FORMAT, "metadata": json.dumps(dict(metadata))}
    )


def write_arrays(
    path: str | pathlib.Path, arrays: Mapping[str, Any], header: Mapping[str, str]
) -> None:
    """Writes arrays by name and a header of text, whole or not at all. Makes missing folders.

    Raises OSError, which names the file, when it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        with atomic_path(path) as partial:
            save_file(contiguous, partial, metadata=dict(header))
    except SafetensorError as error:  # the library's only kind, for a full disk too
        raise OSError(f"{path} is not written: {error}") from error


def read_arrays(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays by name, header) of any safetensors file; bfloat16 by ml_dtypes.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: not a safetensors file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a .safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is not a safetensors file, or is damaged: {error}"
        ) from error


def read_variables(path: str | pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables as NumPy arrays, metadata; {} where the header has none of ours) of a file of ours.

    Raises FileNotFoundError and CheckpointError as `read_arrays` and `as_variables`.
    """
    return as_variables(*read_arrays(path), source=str(path))


def as_variables(
    flat: Mapping[str, np.ndarray], header: Mapping[str, str], *, source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(variables, metadata) of a file's arrays and header. Names may be joined with "/" (ours) or ".".

    Raises CheckpointError when the arrays are not {"params", "constants"}.
    """
    try:
        variables = unflatten(
            {name if "/" in name else name.replace(".", "/"): array for name, array in flat.items()}
        )
        metadata = json.loads(header.get("metadata", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{source} was not written by segjax: {error}") from error
    if "params" not in variables or not set(variables) <= {"params", "constants"}:
        some = ", ".join(sorted(flat)[:3]) or "no array at all"
        raise CheckpointError(
            f"{source} was not written by segjax: expected arrays named params/... and constants/..., found {some}"
        )
    return {"params": variables["params"], "constants": variables.get("constants", {})}, metadata
