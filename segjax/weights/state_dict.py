"""Finds the state dict in a file of torch, where training scripts wrap it and prefix its keys."""

import collections
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segjax.weights.pickles.tensors import ForeignArray
from segjax.weights.pickles.values import Inert, describe
from segjax.weights.tree import CheckpointError

logger = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module")
# Copies of the model, which are read where there is no other
AVERAGES = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "teacher")
# Of DataParallel, torch.compile, Lightning, fine-tuning scripts
PREFIXES = ("module.", "_orig_mod.", "model.", "sam.")
_MAX_WRAPPERS = 8


def find_state_dict(
    content: Any, *, source: str, is_known: Callable[[Mapping[str, Any]], Any] | None = None
) -> dict[str, np.ndarray]:
    """Returns the state dict of a file's content: key -> array.

    Wrappers such as {"model": {...}} are opened, and prefixes of the keys are removed. Entries
    beside a wrapped state dict, such as an optimizer, are ignored. Values that are not arrays, and
    arrays outside a prefix that most keys share, are left out with a warning.

    Args:
      content: content of the file.
      source: name of the file for messages.
      is_known: called with arrays by key, tells whether they look like a model's. Needed to find
        prefixes other than `PREFIXES`.

    Raises:
      CheckpointError: no mapping from text to arrays, or one with an object that is not read. The
        message says what is there.
    """
    content = _open_wrappers(content, source)
    arrays = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, np.ndarray)
    }
    # NumPy's arrays beside tensors are results of training, such as a history of losses
    is_foreign = {key for key, array in arrays.items() if isinstance(array, ForeignArray)}
    if len(is_foreign) == len(arrays):
        is_foreign = set()
    state = {key: np.asarray(array) for key, array in arrays.items() if key not in is_foreign}
    others = {key: value for key, value in content.items() if key not in state}
    unread = [key for key, value in others.items() if isinstance(value, Inert) and "." in str(key)]
    if not state or unread:
        some = unread or list(others)
        listed = ", ".join(f"{_describe_key(key)}: {describe(others[key])}" for key in some[:5])
        raise CheckpointError(
            f"{source} holds more than a state dict: {listed}; expected arrays by name, alone or "
            f"under one of {', '.join(map(repr, WRAPPERS))}"
        )
    if others:
        names = [f"{key} ({describe(others[key])})" for key in others]
        warn_ignored(source, "values that are not parameters", names)
    return _remove_prefixes(state, source, is_known)


def _describe_key(key: Any) -> str:
    return repr(key[:80]) if isinstance(key, str) else f"{describe(key)} as key"


def _open_wrappers(content: Any, source: str) -> Mapping[Any, Any]:
    """Returns the innermost mapping that a wrapper holds, or the content itself."""
    for _ in range(_MAX_WRAPPERS):
        if not isinstance(content, Mapping):
            break
        names = [
            name for name in (*WRAPPERS, *AVERAGES) if _holds_arrays(content.get(name), depth=3)
        ]
        if not names:
            break
        if len(names) > 1:
            logger.warning(
                "%s holds several state dicts (%s); %r is read",
                source,
                ", ".join(map(repr, names)),
                names[0],
            )
        content = content[names[0]]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{source} holds {describe(content)}; expected a state dict (arrays by name), as "
            "torch.save(model.state_dict(), path) writes it"
        )
    return content


def _holds_arrays(value: Any, depth: int) -> bool:
    """Tells whether a value is a mapping of arrays, or a wrapper of one."""
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(isinstance(child, np.ndarray) for child in value.values()) or any(
        _holds_arrays(value.get(name), depth - 1) for name in (*WRAPPERS, *AVERAGES)
    )


def _remove_prefixes(
    state: dict[str, np.ndarray], source: str, is_known: Callable[[Mapping[str, Any]], Any] | None
) -> dict[str, np.ndarray]:
    """Removes prefixes that all keys share, or most of them if the rest is a known model's."""
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): array for key, array in state.items()}
    if is_known is None or is_known(state):
        return state
    inner, prefix = state, ""
    while component := _find_common_component(inner):
        prefix += component
        inner = {
            key.removeprefix(component): array
            for key, array in inner.items()
            if key.startswith(component)
        }
        if is_known(inner):
            outside = [key for key in state if not key.startswith(prefix)]
            if outside:
                warn_ignored(source, f"arrays outside the model's prefix {prefix!r}", outside)
            return inner
    return state


def _find_common_component(state: Mapping[str, Any]) -> str:
    """Returns the first component, with its dot, that most keys share, "" if there is none."""
    counts = collections.Counter(key.partition(".")[0] + "." for key in state if "." in key)
    component, count = counts.most_common(1)[0] if counts else ("", 0)
    return component if 2 * count > len(state) else ""


def warn_ignored(source: str, kind: str, names: list[str]) -> None:
    """Warns about entries of a file that are ignored.

    Args:
      source: name of the file.
      kind: noun phrase, plural.
      names: names of the entries. The message has their number and the first few.
    """
    some = ", ".join(ascii(name)[1:-1][:100] for name in names[:3])
    more = ", ..." if len(names) > 3 else ""
    logger.warning("%s: %s are ignored (%d: %s%s)", source, kind, len(names), some, more)
