"""Archives of TorchScript (`torch.jit.save`): a tree of modules, read as a state dict.

The archive's code is neither parsed nor executed. Modules become placeholders that hold their
attributes, of which the tensors are kept.
"""

from collections.abc import Callable
from typing import Any

from segjax.weights.pickles.tensors import Tensor
from segjax.weights.pickles.values import MAX_DEPTH, Name, Placeholder

_PACKAGE = "__torch__"


class ScriptModule(Placeholder):
    """Placeholder of a module.

    Attributes:
      kind: name of its class, without the package.
      attributes: its state: name -> value.
    """

    __slots__ = ("attributes", "kind")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.attributes: dict[Any, Any] = {}

    def set_state(self, state: Any) -> None:
        """Sets the attributes."""
        if not isinstance(state, dict):
            raise ValueError(f"the state of a module is a {type(state).__name__}")
        self.attributes = state


class ScriptState(dict):
    """State dict of a TorchScript archive: key -> tensor.

    Attributes:
      kinds: names of the classes of its modules, such as "QuickGELU".
    """

    kinds: frozenset[str] = frozenset()


def find_module_class(name: Name) -> Callable[..., ScriptModule] | None:
    """Returns the maker of placeholders for a class of a TorchScript archive, None for others."""
    if name.module != _PACKAGE and not name.module.startswith(f"{_PACKAGE}."):
        return None
    return lambda *_: ScriptModule(name.name)


def flatten_modules(root: ScriptModule) -> ScriptState:
    """Returns the tensors of a tree of modules under their dotted names.

    Flags, text and other attributes are left out. A module that occurs twice counts once for each
    name.

    Raises:
      ValueError: the tree is too deep, or contains itself.
    """
    state, kinds = ScriptState(), set()
    waiting = [("", root, 0)]
    count = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        kinds.add(module.kind)
        count += 1
        if depth > MAX_DEPTH or count > 1_000_000:
            raise ValueError("its modules are nested too deeply, or one contains itself")
        for key, value in module.attributes.items():
            if isinstance(value, ScriptModule):
                waiting.append((f"{prefix}{key}.", value, depth + 1))
            elif isinstance(value, Tensor):
                state[f"{prefix}{key}"] = value
    state.kinds = frozenset(kinds)
    return state
