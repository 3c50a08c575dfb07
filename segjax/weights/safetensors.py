"""Reads and writes .safetensors files.

Our own files hold arrays by path, and the model's name and options in the header. The safetensors
library is imported inside the functions.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.files import atomic_path
from segjax.messages import make_printable
from segjax.weights.tree import CheckpointError, flatten, unflatten

FORMAT = "segjax"
_MAX_DEPTH = 50  # levels of modules within modules


def save_variables(
    path: str | pathlib.Path, variables: Mapping[str, Any], metadata: Mapping[str, Any]
) -> None:
    """Writes variables to a .safetensors file, completely or not at all.

    Example:
      save_variables("mine.safetensors", variables, {"model": {"name": "sam_tiny"}})
      model, variables = segjax.load("mine.safetensors")

    Args:
      path: of the file. Missing folders are created.
      variables: {"params", "constants"}, nested dicts of arrays.
      metadata: JSON. With {"model": {"name": "sam_tiny", ...options}}, `segjax.load(path)` can
        build the model.

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
    """Writes arrays and a header to a .safetensors file, completely or not at all.

    Args:
      path: of the file. Missing folders are created.
      arrays: name -> array.
      header: name -> text.

    Raises:
      OSError: the file cannot be written. The message names it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # `ascontiguousarray` would give a number an axis
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        with atomic_path(path) as partial:
            # The library's files are private to their owner; the others' have the umask's mode
            partial.touch()
            mode = partial.stat().st_mode
            save_file(contiguous, partial, metadata=dict(header))
            partial.chmod(mode)
    except SafetensorError as error:  # the library's only kind, for a full disk too
        raise OSError(f"{path} is not written: {error}") from error


def read_arrays(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads any .safetensors file.

    Returns:
      arrays: name -> array. bfloat16 is that of ml_dtypes.
      header: name -> text.

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
            names = file.keys()  # the file is not a mapping
            return {name: _get_array(file, name) for name in names}, header
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size} bytes) is not a safetensors file, or is damaged: "
            f"{make_printable(str(error), 300)}"
        ) from error


def _get_array(file: Any, name: str) -> np.ndarray:
    """Returns an array of an open file, or raises SafetensorError with its name."""
    from safetensors import SafetensorError

    try:
        return file.get_tensor(name)
    except (ArithmeticError, AttributeError, MemoryError, TypeError, ValueError) as error:
        raise SafetensorError(f"array {name[:80]!r} cannot be read ({error})") from error


def read_variables(path: str | pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads variables and metadata of a file of ours.

    Returns:
      variables: {"params", "constants"}, NumPy arrays.
      metadata: {} if the header has none of ours.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: not a safetensors file, or not one of ours.
    """
    return parse_variables(*read_arrays(path), source=str(path))


def parse_variables(
    flat: Mapping[str, np.ndarray], header: Mapping[str, str], *, source: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns variables and metadata from a file's arrays and header.

    Args:
      flat: path -> array. Paths are joined with "/" or ".".
      header: name -> text.
      source: name of the file for messages.

    Raises:
      CheckpointError: the arrays are not {"params", "constants"}.
    """
    try:
        if deep := [name for name in flat if max(map(name.count, "/.")) > _MAX_DEPTH]:
            raise ValueError(f"array {deep[0][:80]}... lies more than {_MAX_DEPTH} levels deep")
        variables = unflatten(
            {name if "/" in name else name.replace(".", "/"): array for name, array in flat.items()}
        )
        metadata = json.loads(header.get("metadata", "{}"))
        if not isinstance(metadata, dict):
            raise ValueError(f"its metadata is a {type(metadata).__name__}, expected a mapping")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} was not written by segjax: {error}") from error
    if "params" not in variables or not set(variables) <= {"params", "constants"}:
        some = ", ".join(name[:80] for name in sorted(flat)[:3]) or "no array at all"
        raise CheckpointError(
            f"{source} was not written by segjax: expected arrays named params/... and "
            f"constants/..., found {some}"
        )
    return {"params": variables["params"], "constants": variables.get("constants", {})}, metadata
