"""Checks of numbers that users give as options."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.tree import flatten


def check_numbers(low: float = -math.inf, high: float = math.inf, /, **values: Any) -> None:
    """Raises ValueError unless options are finite numbers. None means an option's default.

    Comparisons with NaN are false, so a threshold of NaN would remove everything or nothing.

    Args:
      low: smallest value.
      high: largest value.
      values: options by name.
    """
    for name, value in values.items():
        if value is None:
            continue
        is_number = isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()
        if not is_number or not _is_finite(value) or not low <= value <= high:
            bounds = f" from {low:g} to {high:g}" if math.isfinite(low) else ""
            raise ValueError(f"{name} is {value!r:.80}; expected a number{bounds}")


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    # Whole numbers of hundreds of digits
    except OverflowError:
        return False


def check_finite(variables: Mapping[str, Any], effect: str) -> None:
    """Raises ValueError for variables with NaN or infinity.

    Args:
      variables: {"params", "constants"}.
      effect: what the model would do with them, for the message.
    """
    for path, array in flatten(dict(variables)).items():
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(
                f"variables: {path} holds NaN or infinity, {effect}; take an earlier checkpoint of "
                "the run (step=...)"
            )
