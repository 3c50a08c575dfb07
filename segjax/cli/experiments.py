"""Finds and reads experiments, and applies the command line's changes to their config."""

import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
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
      FileNotFoundError: There is neither such a file nor such a name. Lists the nearest
        experiments.
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

    A file is executed as a module of its folder, so `from . import quickstart` imports the file
    beside it. Nothing has to be installed for that.

    Args:
      argument: "FILE.py[:VARIANT]", or "NAME[:VARIANT]" of an experiment that a package has
        registered with `segjax.register_experiment`. A file takes precedence.

    Raises:
      FileNotFoundError: As `check_experiment`.
      ValueError: A file that cannot be executed or has no `get_config`, an unknown variant, or a
        result that is no ConfigDict.
    """
    check_experiment(argument)
    name, _, variant = argument.partition(":")
    path = pathlib.Path(name)
    get_config = _load_get_config(path) if path.is_file() else EXPERIMENTS.get(name)
    if variant and not inspect.signature(get_config).parameters:
        raise ValueError(f"{name} has no variants (get_config takes no argument), got {variant!r}")
    import ml_collections

    config = get_config(variant) if variant else get_config()
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"get_config of {name} returned {type(config).__name__}; expected an "
            "ml_collections.ConfigDict"
        )
    return config


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
    loader = importlib.machinery.SourceFileLoader(name, str(path))  # whatever the file's suffix
    spec = importlib.util.spec_from_loader(name, loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be executed: {type(error).__name__}: {error}") from error
    if not hasattr(module, "get_config"):
        raise ValueError(
            f"{path} has no get_config(); an experiment is a function get_config(variant='') there"
        )
    return module.get_config


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
