"""Checks of numbers that users give as options."""

import math
import numbers
from typing import Any


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
