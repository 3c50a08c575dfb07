"""Options of data sources: opening a reader with them, after they are checked."""

import difflib
import inspect
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from segjax.data.sources.raw import RawSource
from segjax.registry import SOURCES

HELD_OUT = "held_out"


def open_raw(
    name: str, raw_dir: str | pathlib.Path | None, options: Mapping[str, Any]
) -> tuple[RawSource, float]:
    """Opens raw files with the reader that is registered under a name.

    Args:
      name: of the source.
      raw_dir: folder of the raw files, or None.
      options: of the source. Every source has `held_out`, its own or the general one.

    Returns:
      A pair of the reader, and the share of images that `prepare` must hold out itself.

    Raises:
      ValueError: unknown source or option, or a value of another type.
    """
    reader = SOURCES.get(name)
    if raw_dir is None and name != "synthetic":
        raise ValueError(f"the source {name!r} needs the folder of its raw files, got none")
    options = check_options(name, reader, options)
    share = 0.0
    if HELD_OUT in options and HELD_OUT not in inspect.signature(reader).parameters:
        options, share = dict(options), options[HELD_OUT]
        del options[HELD_OUT]
    try:
        return reader(raw_dir, **options), share
    # A reader with **options checks the names itself.
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ValueError(
            f"the source {name!r} does not have all of the options {', '.join(sorted(options))}"
        ) from error


def check_options(name: str, reader: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Checks the names and types of options against the parameters of a reader.

    Args:
      name: of the source, in error messages.
      reader: class or function.
      options: given by the user.

    Returns:
      The options. Whole numbers become text where the reader expects text.

    Raises:
      ValueError: unknown name, or a value of another type than the default.
    """
    # The first parameter is the folder.
    parameters = list(inspect.signature(reader).parameters.values())[1:]
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    # A reader's own default may be None.
    defaults[HELD_OUT] = 0.0
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for option in options:
        if option not in defaults and not accepts_any:
            nearest = difflib.get_close_matches(option, defaults, 1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(
                f"the source {name!r} has no option {option!r}; it has "
                f"{', '.join(sorted(defaults))}{hint}"
            )
    checked = {
        option: _check_value(option, value, defaults.get(option))
        for option, value in options.items()
    }
    share = checked.get(HELD_OUT, 0.0)
    if not 0 <= share < 1:
        raise ValueError(
            f"held_out is the share of the images to evaluate on, in 0 .. 1, got {share}"
        )
    return checked


def _check_value(option: str, value: Any, default: Any) -> Any:
    """Returns a value of the type of the default. Raises ValueError for another type."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        fits, expected = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        fits, expected = is_number and isinstance(value, int), "a whole number"
    elif isinstance(default, float):
        fits, expected = is_number and math.isfinite(value), "a number"
    elif isinstance(default, str):
        # `--option category=7` is read as a number, and means the name.
        return str(value)
    else:
        return value
    if not fits:
        raise ValueError(f"the option {option} is {value!r}; expected {expected}")
    return value
