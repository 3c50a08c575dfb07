"""Finds, lists and reads experiments."""

import ast
import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import inspect
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from segjax.registry import EXPERIMENTS

_PACKAGE = "segjax_experiments"  # name of the package that the folder of an experiment becomes


def find_experiment(argument: str) -> pathlib.Path | None:
    """Returns the file of an experiment, or None for one that is registered by name.

    Args:
      argument: "FILE.py[:VARIANT]", "NAME[:VARIANT]" of a registered experiment, or
        "FOLDER/NAME[:VARIANT]" of one that comes with segjax, such as "sam/quickstart".

    Raises:
      FileNotFoundError: There is neither such a file nor such a name. Lists the nearest
        experiments.
    """
    name = argument.split(":", 1)[0]
    path = pathlib.Path(name)
    if path.is_file():
        return path
    if name in EXPERIMENTS:
        return None
    if name in (own := own_experiments()):
        return own[name]
    # Experiments in the nearest folder that exists, else in experiments/, else those of segjax
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    files = [] if folder == pathlib.Path() else _experiment_files(folder)
    files = files or _experiment_files(pathlib.Path("experiments"))
    files = [str(file) for file in files] or list(own)
    near = difflib.get_close_matches(name, [*files, *own, *EXPERIMENTS], 1)
    message = f"no experiment {name}; " + (f"did you mean {near[0]}? " if near else "")
    message += f"there are {', '.join(files[:20])}"
    if registered := EXPERIMENTS.names():
        message += f"; registered by name: {', '.join(registered)}"
    raise FileNotFoundError(message)


def own_experiments() -> dict[str, pathlib.Path]:
    """Returns name -> file of the experiments that come with segjax, such as "sam/quickstart".

    They lie in experiments/ beside the package in a clone, and inside it once it is installed.
    """
    package = pathlib.Path(__file__).resolve().parent.parent
    for folder in (package / "experiments", package.parent / "experiments"):
        if folder.is_dir():
            files = _experiment_files(folder)
            return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    return {}


def describe_experiments() -> str:
    """Returns one line for each experiment of segjax and of registered packages, for people."""
    lines = []
    for name, path in own_experiments().items():
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        lines.append(f"{name:<28} {docstring.partition(chr(10))[0]}".rstrip())
    for name in EXPERIMENTS:
        lines.append(f"{name:<28} registered by a package")
    return "\n".join(lines)


def read_config(argument: str) -> Any:
    """Returns the ConfigDict of an experiment.

    A file is executed as a module of its folder: `from . import quickstart` and
    `import quickstart` both import the file beside it. Nothing has to be installed for that.

    Args:
      argument: "FILE.py[:VARIANT]"; else "NAME[:VARIANT]" of an experiment that a package has
        registered with `segjax.register_experiment`; else one of segjax, as "sam/quickstart".

    Raises:
      FileNotFoundError: As `find_experiment`.
      ValueError: A file that cannot be executed or has no `get_config`, an unknown variant, or a
        result that is no ConfigDict.
    """
    path = find_experiment(argument)
    name, _, variant = argument.partition(":")
    # The function may import its neighbors too, so it runs inside the block
    with _importing_from(path.resolve().parent if path else None):
        get_config = _load_get_config(path) if path else EXPERIMENTS.get(name)
        if variant and not inspect.signature(get_config).parameters:
            raise ValueError(
                f"{name} has no variants (get_config takes no argument), got {variant!r}"
            )
        config = get_config(variant) if variant else get_config()
    import ml_collections

    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"get_config of {name} returned {type(config).__name__}; expected an "
            "ml_collections.ConfigDict"
        )
    return config


def _experiment_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*.py") if not path.name.startswith("_"))


@contextlib.contextmanager
def _importing_from(folder: pathlib.Path | None) -> Iterator[None]:
    """Makes plain imports of a folder's modules work in the block, as beside a Python script.

    Afterwards these modules are forgotten: another folder may have files of the same names.
    """
    if folder is None:
        yield
        return
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            # By the top name: an environment may lie in the folder too, as .venv
            top = name.split(".")[0]
            file = pathlib.Path(getattr(sys.modules[name], "__file__", None) or "")
            if file == folder / f"{top}.py" or folder / top in file.parents:
                del sys.modules[name]


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
