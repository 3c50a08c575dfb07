"""The canonical tree of a model's variables: nested dicts of arrays, each array with a path such as
"params/image_encoder/trunk/block_0/mlp/layer_0/kernel". Comparing, flattening and unflattening it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


class CheckpointError(ValueError):
    """No checkpoint can be read, or the one there is holds other parameters than asked for."""


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by path, in the tree's order. None is no leaf; entries of lists and tuples are named by their place."""
    if tree is None:
        return {}
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, (list, tuple)) and not hasattr(tree, "shape"):
        items = enumerate(tree)
    else:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, child in items:
        flat |= flatten(child, f"{prefix}/{name}" if prefix else str(name))
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts of a mapping from path to leaf. Raises ValueError where a path goes through another's leaf."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path!r} lies inside {parent!r}, which is an array itself")
        if name in node:
            raise ValueError(f"{path!r} is both an array and the parent of others, or occurs twice")
        node[name] = leaf
    return tree


def match_collections(variables: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Variables with each array in the collection where the expected ones have it; others stay.

    What is trained lies in "params" and what is fixed in "constants", under the same path: a model with another part
    frozen takes the same arrays from elsewhere.
    """
    wanted, other = flatten(expected), {"params": "constants", "constants": "params"}
    flat = {}
    for path, leaf in flatten(variables).items():
        collection, _, rest = path.partition("/")
        moved = f"{other.get(collection)}/{rest}"
        flat[moved if path not in wanted and moved in wanted else path] = leaf
    return {"params": {}, "constants": {}} | unflatten(flat)


def check_parameters(
    expected: Any, found: Any, *, source: str, kind: str = "params", first: int = 5, hint: str = ""
) -> None:
    """Raises CheckpointError unless two trees have the same paths and shapes.

    Args:
      expected, found: nested dicts of anything with a shape.
      source: how the message calls what `found` was read from.
      kind: which collection this is. first: how many arrays of each kind of fault the message lists.
      hint: what the message says at its end.

    The message counts and lists the missing (expected, not found), unexpected and misshapen arrays.
    """
    if found_differences := describe_differences(expected, found, first=first):
        raise CheckpointError(
            f"{source} is of another architecture; its {kind} differ: {found_differences}{hint}"
        )


def describe_differences(expected: Any, found: Any, *, first: int = 5) -> str:
    """How paths and shapes of two trees differ, as `check_parameters` says it; "" where they do not."""
    want, have = _shapes(expected), _shapes(found)
    problems = {
        "missing": [f"{p} {want[p]}" for p in want if p not in have],
        "unexpected": [f"{p} {have[p]}" for p in have if p not in want],
        "misshapen": [
            f"{p} is {have[p]}, expected {want[p]}"
            for p in want
            if p in have and have[p] != want[p]
        ],
    }
    return "; ".join(
        f"{len(names)} {problem}: {', '.join(names[:first])}{', ...' if len(names) > first else ''}"
        for problem, names in problems.items()
        if names
    )


def check_variables(
    expected: Mapping[str, Any], found: Mapping[str, Any], *, source: str, hint: str = ""
) -> None:
    """`check_parameters` for both collections of {"params", "constants"}."""
    for kind in ("params", "constants"):
        check_parameters(
            expected.get(kind, {}), found.get(kind, {}), source=source, kind=kind, hint=hint
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        path: tuple(np.shape(leaf) if np.isscalar(leaf) else leaf.shape)
        for path, leaf in flatten(tree).items()
    }
