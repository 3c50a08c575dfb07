"""Finding the state dict in what a file of torch's holds: training scripts wrap it, and prefix its keys."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.tree import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model")
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "sam.",
)  # DataParallel, torch.compile, Lightning, fine-tuning scripts


def find_state_dict(content: Any, *, source: str) -> dict[str, np.ndarray]:
    """Arrays by key: {"model": {...}} and its like are opened, and prefixes that every key has are dropped.

    What lies beside a wrapped state dict (an optimizer, an epoch) is left alone.

    Raises:
      CheckpointError: there is no mapping from text to arrays in it; says what there is.
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
            f"{source} holds {_said(content)}; expected a state dict (arrays by name), as "
            "torch.save(model.state_dict(), path) writes it"
        )
    others = [
        f"{key!r}: {_said(value)}"
        for key, value in content.items()
        if not isinstance(value, np.ndarray)
    ]
    if others or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{source} holds more than a state dict: {', '.join(others[:5]) or 'keys that are no text'}; expected "
            f"arrays by name, alone or under one of {', '.join(map(repr, WRAPPERS))}"
        )
    state = dict(content)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): array for key, array in state.items()}
    return state


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        some = ", ".join(map(repr, list(value)[:3]))
        return (
            f"a mapping of {len(value)} ({some}{', ...' if len(value) > 3 else ''})"
            if value
            else "an empty mapping"
        )
    return f"a {type(value).__name__}"
