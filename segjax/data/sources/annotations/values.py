"""Values of annotation files, read strictly: numbers, flags and ids.

Exporters write numbers as text or as 3.0, and flags as "0". These have one meaning and are read.
Everything else is None, so that the caller can count and name it.
"""

import math
import re
import reprlib
from typing import Any

# float() would also accept "nan", "infinity" and "1_000".
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_FLAGS = {"0": False, "1": True, "false": False, "true": True}
_LARGEST_ID = 2**63 - 1
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def parse_number(value: Any) -> float | None:
    """Returns a finite number, also from text such as "12.5". None for everything else."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value.strip()):
            return None
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def parse_numbers(values: Any, count: int) -> list[float] | None:
    """Returns a list of exactly `count` finite numbers, or None."""
    if not is_list(values) or len(values) != count:
        return None
    numbers = [parse_number(value) for value in values]
    return None if None in numbers else numbers


def parse_whole_number(value: Any) -> int | None:
    """Returns an integer of 64 bits, also from 3.0 and "3". None for everything else."""
    if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
        value = int(value) if len(value) < 30 else None
    if isinstance(value, bool) or value is None:
        return None
    if not isinstance(value, int):
        number = parse_number(value)
        value = int(number) if number is not None and number.is_integer() else None
    return value if value is not None and abs(value) <= _LARGEST_ID else None


def parse_flag(value: Any) -> bool | None:
    """Returns a flag from 0, 1, False, True or these as text. None for everything else."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return bool(value) if value in (0, 1) else None
    return _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None


def parse_key(value: Any) -> str | None:
    """Returns the text by which ids of images are compared, so that 7, 7.0 and "7" are equal.

    Text with leading zeros stays as it is, because "07" may be another image than "7".
    """
    if isinstance(value, str):
        return value.strip() or None
    number = parse_whole_number(value)
    return None if number is None else str(number)


def describe(value: Any) -> str:
    """Returns a foreign value as one short line of printable characters."""
    return _SHORT.repr(value)


def is_list(value: Any) -> bool:
    """Returns True for a list of JSON, and for a tuple."""
    return isinstance(value, (list, tuple))
