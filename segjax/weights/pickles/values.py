"""Values of a pickle that stand for something else: names, foreign objects, tensors, arrays."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segjax.weights.tree import CheckpointError

MAX_DEPTH = 100  # levels of containers within containers
# Modules whose functions run programs or Python code. No honest checkpoint names them.
_MODULES = {"os", "posix", "nt", "subprocess", "sys", "runpy", "importlib", "shutil", "socket"}
_MODULES |= {"pty", "ctypes", "webbrowser", "pickle", "_pickle", "marshal"}
_BUILTINS = {"eval", "exec", "compile", "open", "__import__"}


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """Name of a class or function in a pickle. It is never imported.

    Attributes:
      module: name of its module.
      name: name within the module.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """Placeholder of an object that is not read.

    Attributes:
      description: noun phrase for messages, such as "an object of argparse.Namespace".
    """

    description: str


class Placeholder:
    """Base of placeholders that are built in two steps: a call, then a state."""

    def set_state(self, state: Any) -> None:
        """Sets the state of the object."""
        raise NotImplementedError


def refuse_programs(name: Name) -> None:
    """Raises CheckpointError for a function that runs programs or Python code.

    It would not be called in any case, but nobody should go on to use such a file.
    """
    root = name.module.partition(".")[0]
    is_builtin = root in ("builtins", "__builtin__") and name.name in _BUILTINS
    if root in _MODULES or is_builtin:
        raise CheckpointError(
            f"is refused: its pickle asks for {name}, which a file of weights has no use for and "
            "which can run programs. Nothing of it was run. Do not open the file with other "
            "programs; get it from a source that you trust"
        )


def to_key(value: Any) -> Any:
    """Returns a value as a key of a dict.

    Hashes of nested tuples recurse in C, and those of tuples, floats and huge integers can be made
    to collide, so such keys become `Inert` values.
    """
    if value is None or isinstance(value, (str, bytes)):
        return value
    if isinstance(value, int) and abs(value) < 1 << 60:
        return value
    return Inert(describe(value))


def make_dict(items: Any = (), *_: Any) -> dict[Any, Any]:
    """Returns a dict of another dict or of pairs, as the constructors of dicts in pickles do."""
    if isinstance(items, dict):
        return dict(items)
    if isinstance(items, (list, tuple)):
        return {to_key(key): value for key, value in items}
    return {}  # defaultdict's argument is a function


def make_list(items: Any = (), *_: Any) -> list[Any]:
    """Returns a list of the elements of a list, tuple or set."""
    return list(items) if isinstance(items, (list, tuple)) else []


def make_object(kind: Any, *_: Any) -> Inert:
    """Returns the placeholder of an object, as protocols 0 and 1 make one."""
    return Inert(f"an object of {describe(kind)}")


CONTAINERS: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): make_dict,
    ("collections", "defaultdict"): make_dict,
    ("collections", "Counter"): make_dict,
    **{
        (module, name): make_list
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset")
    },
    ("copyreg", "_reconstructor"): make_object,
    ("copy_reg", "_reconstructor"): make_object,
}


def describe(value: Any) -> str:
    """Returns a noun phrase for a value of a pickle."""
    if isinstance(value, Inert):
        return value.description
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, Mapping):
        some = ", ".join(repr(key)[:60] for key in list(value)[:3])
        more = ", ..." if len(value) > 3 else ""
        return f"a mapping of {len(value)} ({some}{more})" if value else "an empty mapping"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    kind = type(value).__name__
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def replace_values(root: Any, replace: Callable[[Any], Any]) -> Any:
    """Returns the value with every leaf replaced, in containers of the same kind.

    Containers that occur several times are visited once, and stay shared.

    Args:
      root: dicts, lists and tuples of anything.
      replace: called with each value that is no such container.

    Raises:
      ValueError: containers are nested too deeply, or one contains itself.
    """
    done: dict[int, tuple[Any, int]] = {}  # by identity: the new container, and its height
    unfinished: set[int] = set()

    def visit(value: Any, depth: int) -> tuple[Any, int]:
        if type(value) not in (dict, list, tuple):
            return replace(value), 0
        identity = id(value)
        if identity in unfinished:
            raise ValueError("a container in it contains itself")
        if identity not in done:
            unfinished.add(identity)
            _check_depth(depth)
            children = value.values() if isinstance(value, dict) else value
            visited = [visit(child, depth + 1) for child in children]
            new = [child for child, _ in visited]
            height = 1 + max((height for _, height in visited), default=0)
            done[identity] = (
                dict(zip(value, new, strict=True)) if isinstance(value, dict) else type(value)(new),
                height,
            )
            unfinished.remove(identity)
        _check_depth(depth + done[identity][1] - 1)
        return done[identity]

    return visit(root, 0)[0]


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise ValueError(f"its values are nested more than {MAX_DEPTH} levels deep")
