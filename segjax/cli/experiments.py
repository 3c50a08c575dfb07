"""Experiment files: finding them, and checking what the command line changes of their config."""

import difflib
import importlib.util
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any


def check_experiment(argument: str) -> None:
    """Raises FileNotFoundError unless `file.py[:variant]` names a file; lists the experiments that are near."""
    path = pathlib.Path(argument.split(":", 1)[0])
    if path.is_file():
        return
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    found = (
        sorted(str(p) for p in folder.rglob("*.py") if not p.name.startswith("_")) if folder != pathlib.Path() else []
    )
    found = found or sorted(str(p) for p in pathlib.Path("experiments").rglob("*.py"))
    near = difflib.get_close_matches(str(path), found, 1)
    raise FileNotFoundError(
        f"no experiment {path}; "
        + (f"did you mean {near[0]}? " if near else "")
        + (f"there are {', '.join(found[:20])}" if found else "run the command in a folder with experiments/")
    )


def read_config(argument: str) -> Any:
    """The ConfigDict that `get_config` of `file.py[:variant]` returns.

    Raises FileNotFoundError (see `check_experiment`), ValueError for a file without get_config or an unknown variant.
    """
    check_experiment(argument)
    path, _, variant = argument.partition(":")
    spec = importlib.util.spec_from_file_location(f"experiment_{pathlib.Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path} has no get_config(); an experiment is a function get_config(variant='') there")
    return module.get_config(variant) if variant else module.get_config()


def apply_flags(config: Any, flags: Sequence[str]) -> Any:
    """The config with the command line's `--config.key=value` applied.

    Raises ValueError for a key that the config lacks (names the nearest), a value of another type, and any argument
    that is none of these.
    """
    from absl import flags as absl_flags
    from ml_collections import config_flags

    names = _names(flags)
    strangers = [name for name in names if not name.startswith("config.")]
    if strangers:
        near = difflib.get_close_matches(strangers[0], flat_names(config), 1)
        hint = f"; did you mean --config.{near[0]}?" if near else "."
        raise ValueError(
            f"unknown argument --{strangers[0]}{hint} Fields of the experiment are set as --config.key=value"
        )
    check_keys([name.removeprefix("config.") for name in names], config)
    values = absl_flags.FlagValues()
    argv = ["segjax", *flags]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        positional = values(argv)[1:]
    except (absl_flags.Error, TypeError, ValueError) as error:
        raise ValueError(f"{error}") from error
    if positional:
        raise ValueError(
            f"unexpected argument {positional[0]!r}; fields of the experiment are set as --config.key=value"
        )
    return values["config"].value


def check_keys(keys: Iterable[str], config: Any) -> None:
    """Raises ValueError for a dotted key that the config lacks, naming the nearest ones."""
    known = flat_names(config)
    for key in keys:
        if _has(config, re.sub(r"\[\d+\]", "", key)):
            continue
        last = key.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(key, known, 3)
        near += [name for name in known if name.rsplit(".", 1)[-1] == last and name not in near]
        raise ValueError(
            f"the config has no key {key!r}"
            + (f"; nearest: {', '.join(near[:4])}" if near else f"; it has {', '.join(known)}")
        )


def _has(config: Any, key: str) -> bool:
    for part in key.split("."):
        if not hasattr(config, "keys") or part not in config:
            return False
        config = config[part]
    return True


def flat_names(config: Any) -> list[str]:
    """Dotted names of the config's fields, sorted."""
    from segjax.training.defaults import flat_keys

    return sorted(flat_keys(config))


def _names(flags: Sequence[str]) -> list[str]:
    return [flag.lstrip("-").split("=", 1)[0] for flag in flags if flag.startswith("-") and not _is_number(flag)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
