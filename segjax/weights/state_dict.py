"""Finds the state dict in a file of torch, where training scripts wrap it and prefix its keys."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.tree import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
# Of DataParallel, torch.compile, Lightning, fine-tuning scripts
PREFIXES = ("module.", "_orig_mod.", "model.", "sam.")


def find_state_dict(content: Any, *, source: str) -> dict[str, np.ndarray]:
    """Returns the state dict of a file's content: key -> array.

    Wrappers such as {"model": {...}} are opened, and prefixes that all keys share are removed.
    Entries beside a wrapped state dict, such as an optimizer, are ignored.

    Args:
      content: content of the file.
      source: name of the file for messages.

    Raises:
      CheckpointError: no mapping from text to arrays. The message says what is there.
    """
    while isinstance(content, Mapping):
        inner = next(
            (content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{source} holds {_describe(content)}; expected a state dict (arrays by name), as "
            "torch.save(model.state_dict(), path) writes it"
        )
    others = [
        f"{key!r}: {_describe(value)}"
        for key, value in content.items()
        if not isinstance(value, np.ndarray)
    ]
    if others or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{source} holds more than a state dict: "
            f"{', '.join(others[:5]) or 'keys that are not text'}; expected arrays by name, alone "
            f"or under one of {', '.join(map(repr, WRAPPERS))}"
        )
    state = dict(content)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): array for key, array in state.items()}
    return state


def _describe(value: Any) -> str:
    """Returns a description of a value for error messages."""
    if isinstance(value, Mapping):
        some = ", ".join(map(repr, list(value)[:3]))
        return (
            f"a mapping of {len(value)} ({some}{', ...' if len(value) > 3 else ''})"
            if value
            else "an empty mapping"
        )
    return f"a {type(value).__name__}"
