"""Checks the options of a model that a file states, before anything of that size is built."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.inference.numbers import check_numbers
from segjax.models.build import build_model, find_family
from segjax.weights.checkpoint import Checkpoint
from segjax.weights.tree import CheckpointError, flatten

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_POSITIVE = {"canvas", "patch", "width", "depth", "heads", "prompt_width", "mask_channels"}
_POSITIVE |= {"decoder_width", "decoder_depth", "decoder_heads", "features", "box_stages"}
# Each unit of these has arrays of its own, so a file bounds them
_REPEATED = ("depth", "convs", "fcs", "stages")
_MAX_CANVAS = 16384  # pixels
_MAX_NUMBER = 1_000_000
_MAX_LIST = 1000
_MAX_POSITIONS = 1 << 27  # elements of a position table
# Errors of modules whose attributes do not fit together
BUILD_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


def check_saved_options(options: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for options of a model that no such file can have.

    Args:
      options: {"name": ..., and attributes}, as the checkpoint states them.
      checkpoint: whose arrays bound the numbers of layers.
    """
    start = f"{checkpoint.source} describes a model that cannot be built: "
    name = options.get("name")
    if not isinstance(name, str):
        raise CheckpointError(f"{start}its name is {_shorten(name)}; expected text")
    try:
        defaults = find_family(name[:200]).sizes[name]
    except ValueError as error:
        raise CheckpointError(f"{start}{error}") from error

    count = len(flatten(checkpoint.arrays))

    # Kinds and sizes of values
    for key, value in options.items():
        if expected := _find_fault(key, value, defaults.get(key), count):
            raise CheckpointError(f"{start}{key[:80]} is {_shorten(value)}; expected {expected}")
    sizes = {**defaults, **options}
    cells = np.max(sizes.get("canvas", 0)) // sizes.get("patch", 16)
    if cells**2 * sizes.get("width", 1) > _MAX_POSITIONS:
        raise CheckpointError(
            f"{start}its canvas of {sizes['canvas']} pixels has {cells} x {cells} patches; "
            f"expected at most {_MAX_POSITIONS:,} elements of position embeddings"
        )

    try:
        build_model(**options)
    except BUILD_ERRORS as error:
        raise CheckpointError(f"{start}{_first_line(error)}") from error


def read_saved_percentiles(saved: Mapping[str, Any]) -> tuple[float, float] | None:
    """Returns the intensity percentiles that a run was trained with, None for none.

    Args:
      saved: a run's config, or the metadata of a file.

    Raises:
      CheckpointError: they are not two increasing numbers from 0 to 100.
    """
    data = saved.get("data")
    values = data.get("percentiles") if isinstance(data, Mapping) else None
    if not values:
        return None
    try:
        low, high = values
        check_numbers(0, 100, low=low, high=high)
        if not low < high:
            raise ValueError("they do not increase")
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint states percentiles {_shorten(values)}; expected two increasing "
            "numbers from 0 to 100"
        ) from error
    return float(low), float(high)


def read_saved_thresholds(saved: Mapping[str, Any]) -> dict[str, float]:
    """Returns the thresholds that weights recommend for segment-everything.

    Args:
      saved: a run's config, or the metadata of a file. Its entry "everything" may hold both.

    Returns:
      {"pred_iou", "stability"}, each of them only if it is stated and within 0..1.
    """
    stated = saved.get("everything")
    stated = stated if isinstance(stated, Mapping) else {}
    values = {key: stated.get(key) for key in ("pred_iou", "stability")}
    return {key: x for key, x in values.items() if isinstance(x, float) and 0 <= x <= 1}


def explain_build_error(error: Exception, checkpoint: Checkpoint) -> CheckpointError:
    """Returns the error to raise if the shapes of a model cannot be computed."""
    return CheckpointError(
        f"{checkpoint.source} describes a model that cannot be built: {_first_line(error)}"
    )


def _find_fault(key: str, value: Any, default: Any, arrays: int) -> str:
    """Returns the values that an option may have, "" if it has one of them."""
    if key == "dtype":
        return "" if value in _DTYPES else f"one of {', '.join(_DTYPES)}"
    if isinstance(default, str) or isinstance(value, str):
        is_fine = (
            isinstance(value, str)
            and (default is None or isinstance(default, str))
            and len(value) < 200
        )
        return "" if is_fine else _describe_kind(default)
    if key == "canvas" and isinstance(value, list | tuple) and len(value) == 2:
        return next(filter(None, (_find_fault(key, side, 1, arrays) for side in value)), "")
    if isinstance(value, list | tuple):
        if len(value) > _MAX_LIST or isinstance(default, int | float):
            return _describe_kind(default)
        return next(filter(None, (_find_fault("", v, None, arrays) for v in value)), "")
    if value is None or isinstance(value, bool):
        is_fine = default is None or type(value) is type(default)
        return "" if is_fine and key not in _POSITIVE else _describe_kind(default)
    if isinstance(value, Mapping):
        return "" if isinstance(default, Mapping) else _describe_kind(default)
    if not math.isfinite(value) or abs(value) > _MAX_NUMBER:
        return f"a number of at most {_MAX_NUMBER:,}"
    if key == "canvas" and value > _MAX_CANVAS:
        return f"a side of at most {_MAX_CANVAS} pixels"
    if key in _POSITIVE and (value < 1 or not isinstance(value, int)):
        return "a whole number of at least 1"
    if key.endswith(_REPEATED) and not 0 <= value <= arrays:
        return f"at most the number of its arrays, {arrays}"
    return ""


def _describe_kind(default: Any) -> str:
    if isinstance(default, bool):
        return "true or false"
    kinds = {int: "a whole number", float: "a number", str: "text", tuple: "a list of numbers"}
    return kinds.get(type(default), "a number, text, or a list of numbers")


def _shorten(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = "a huge number" if isinstance(value, int) and abs(value) >> 100 else repr(value)
    return text if len(text) < 100 else f"{text[:80]}..."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
