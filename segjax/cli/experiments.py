"""Finds and reads experiments, and applies the command line's changes to their config."""

import difflib
import importlib
import importlib.util
import pathlib
import re
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from segjax.registry import EXPERIMENTS

_PACKAGE = "segjax_experiments"  # name of the package that the folder of an experiment becomes


def check_experiment(argument: str) -> None:
    """Checks that an experiment exists.

    Args:
      argument: "FILE.py[:VARIANT]", or "NAME[:VARIANT]" of a registered experiment.

    Raises:
      FileNotFoundError: There is neither such a file nor such a name. Lists the nearest experiments.
    """
    name = argument.split(":", 1)[0]
    path = pathlib.Path(name)
    if path.is_file() or name in EXPERIMENTS:
        return
    # Experiments in the nearest folder that exists, else those of the repository.
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    files = [] if folder == pathlib.Path() else _experiment_files(folder)
    files = files or _experiment_files(pathlib.Path("experiments"))
    near = difflib.get_close_matches(name, [*files, *EXPERIMENTS], 1)
    message = f"no experiment {name}; " + (f"did you mean {near[0]}? " if near else "")
    if files:
        message += f"there are {', '.join(files[:20])}"
    else:
        message += "run the command in a folder with experiments/"
    if registered := EXPERIMENTS.names():
        message += f"; registered by name: {', '.join(registered)}"
    raise FileNotFoundError(message)


def read_config(argument: str) -> Any:
    """Returns the ConfigDict of an experiment.

    A file is executed as a module of its folder, so `from . import quickstart` imports the file beside it. Nothing has
    to be installed for that.

    Args:
      argument: "FILE.py[:VARIANT]", or "NAME[:VARIANT]" of an experiment that a package has registered with
        `segjax.register_experiment`. A file takes precedence.

    Raises:
      FileNotFoundError: As `check_experiment`.
      ValueError: A file without `get_config`, or an unknown variant.
    """
    check_experiment(argument)
    name, _, variant = argument.partition(":")
    path = pathlib.Path(name)
    get_config = _load_get_config(path) if path.is_file() else EXPERIMENTS.get(name)
    return get_config(variant) if variant else get_config()


def _experiment_files(folder: pathlib.Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.py") if not path.name.startswith("_"))


def _load_get_config(path: pathlib.Path) -> Callable[..., Any]:
    """Executes an experiment file and returns its `get_config`."""
    # Another folder may have files of the same names, and a file may have changed since.
    for name in [name for name in sys.modules if name.split(".")[0] == _PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()
    package = sys.modules[_PACKAGE] = types.ModuleType(_PACKAGE)
    package.__path__ = [str(path.resolve().parent)]
    name = f"{_PACKAGE}.{path.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(
            f"{path} has no get_config(); an experiment is a function get_config(variant='') there"
        )
    return module.get_config


def apply_flags(config: Any, flags: Sequence[str]) -> Any:
    """The config with the command line's `--config.key=value` applied; it gains keys that its task knows.

    Raises ValueError for a key that the task lacks (names the nearest), a value of another type, and any argument
    that is none of these.
    """
    from absl import flags as absl_flags
    from ml_collections import config_flags

    from segjax.tasks import completed
    from segjax.training.defaults import flat_keys

    # Says which keys there are, and their types. Only those named are taken from it: the others' defaults may yet
    # change, for the model's come with its name.
    full = completed(config)
    names = _names(flags)
    strangers = [name for name in names if not name.startswith("config.")]
    if strangers:
        near = difflib.get_close_matches(strangers[0], flat_names(full), 1)
        hint = f"; did you mean --config.{near[0]}?" if near else "."
        raise ValueError(
            f"unknown argument --{strangers[0]}{hint} Fields of the experiment are set as --config.key=value"
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
            f"unexpected argument {positional[0]!r}; fields of the experiment are set as --config.key=value"
        )
    parsed = flat_keys(values["config"].value)
    for key in keys:
        _set(config, key, parsed[key])
    return config


def check_keys(keys: Iterable[str], config: Any) -> None:
    """Raises ValueError for a dotted key that the config lacks, naming the nearest ones, or that is a group of keys."""
    known = flat_names(config)
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


def _set(config: Any, key: str, value: Any) -> None:
    *groups, last = key.split(".")
    with config.unlocked(), config.ignore_type():  # the value has the type of the default
        for group in groups:
            if group not in config:
                config[group] = type(config)()
            config = config[group]
        config[last] = value


def flat_names(config: Any) -> list[str]:
    """Dotted names of the config's fields, sorted."""
    from segjax.training.defaults import flat_keys

    return sorted(flat_keys(config))


def _names(flags: Sequence[str]) -> list[str]:
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
