"""Applies the command line's `--config.key=value` to the config of an experiment."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any


def apply_flags(config: Any, flags: Sequence[str]) -> Any:
    """Applies the command line's `--config.key=value` to a config, in place.

    Args:
      config: ConfigDict of an experiment. It gains settings that its task knows and it leaves out.
      flags: Arguments of the command line that the command itself does not know.

    Returns:
      The config.

    Raises:
      ValueError: A key that the task does not know (the message names the nearest), a value of
        another type, or an argument that is not of this form.
    """
    from absl import flags as absl_flags
    from ml_collections import config_flags

    from segjax.tasks import complete_config
    from segjax.training.defaults import flatten_config

    # The complete config knows all keys and their types. Only the named keys are copied from it: a
    # flag may change the model's name, and with it the defaults of the model's attributes.
    full = complete_config(config)
    names = _flag_names(flags)
    if unknown := [name for name in names if not name.startswith("config.")]:
        near = difflib.get_close_matches(unknown[0], list_keys(full), 1)
        hint = f"; did you mean --config.{near[0]}?" if near else "."
        raise ValueError(
            f"unknown argument --{unknown[0]}{hint} Fields of the experiment are set as "
            "--config.key=value"
        )
    keys = [re.sub(r"\[\d+\]", "", name.removeprefix("config.")) for name in names]
    check_keys(keys, full)
    values = absl_flags.FlagValues()
    argv = ["segjax", *flags]
    try:
        config_flags.DEFINE_config_dict("config", full, flag_values=values, sys_argv=argv)
        positional = values(argv)[1:]
    except (absl_flags.Error, TypeError, ValueError) as error:
        raise ValueError(f"{error}") from error
    if positional:
        raise ValueError(
            f"unexpected argument {positional[0]!r}; fields of the experiment are set as "
            "--config.key=value"
        )
    parsed = flatten_config(values["config"].value)
    for key in keys:
        _set_value(config, key, parsed[key])
    return config


def check_keys(keys: Iterable[str], config: Any) -> None:
    """Checks that every dotted key is a setting of the config.

    Raises:
      ValueError: An unknown key (the message names the nearest), or a group of settings.
    """
    known = list_keys(config)
    for key in keys:
        if key in known:
            continue
        if inside := [name for name in known if name.startswith(f"{key}.")]:
            raise ValueError(
                f"{key!r} is a group of keys; set them one by one: {', '.join(inside)}"
            )
        last = key.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(key, known, 3)
        near += [name for name in known if name.rsplit(".", 1)[-1] == last and name not in near]
        raise ValueError(
            f"the config has no key {key!r}"
            + (f"; nearest: {', '.join(near[:4])}" if near else f"; it has {', '.join(known)}")
        )


def list_keys(config: Any) -> list[str]:
    """Lists the dotted names of a config's settings, sorted."""
    from segjax.training.defaults import flatten_config

    return sorted(flatten_config(config))


def _set_value(config: Any, key: str, value: Any) -> None:
    """Sets a dotted key, and creates the groups that it needs."""
    *groups, last = key.split(".")
    with config.unlocked(), config.ignore_type():  # the value has the type of the default
        for group in groups:
            if group not in config:
                config[group] = type(config)()
            config = config[group]
        config[last] = value


def _flag_names(flags: Sequence[str]) -> list[str]:
    return [
        flag.lstrip("-").split("=", 1)[0]
        for flag in flags
        if flag.startswith("-") and not _is_number(flag)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
