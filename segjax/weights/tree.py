"""Flattens, unflattens and compares the tree of a model's variables.

The tree is nested dicts of arrays. An array has a path such as
"params/image_encoder/trunk/block_0/mlp/layer_0/kernel".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

_MAX_MESSAGE = 3000  # characters


class CheckpointError(ValueError):
    """Error of a checkpoint that cannot be read or that holds other parameters than expected.

    The message is one line of printable text, whatever names the file holds.
    """

    def __init__(self, message: object) -> None:
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(message)[:100_000])
        if len(text) > _MAX_MESSAGE:
            text = f"{text[: _MAX_MESSAGE * 2 // 3]} ... {text[-_MAX_MESSAGE // 3 :]}"
        super().__init__(text)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns path -> leaf, in the tree's order.

    Args:
      tree: nested mappings, lists and tuples. Entries of lists and tuples are named by their index.
        None is skipped.
      prefix: path of the tree.
    """
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
    """Returns nested dicts from path -> leaf, the inverse of `flatten`.

    Raises:
      ValueError: a path goes through the leaf of another, or occurs twice.
    """
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
    """Moves arrays between "params" and "constants" to where the expected variables have them.

    Trained arrays are in "params" and frozen ones in "constants", under the same path. Models that
    freeze different parts can so share checkpoints.

    Args:
      variables: {"params", "constants"}.
      expected: {"params", "constants"} of anything.

    Returns:
      {"params", "constants"}. Arrays that are not expected stay.
    """
    wanted, other = flatten(expected), {"params": "constants", "constants": "params"}
    flat = {}
    for path, leaf in flatten(variables).items():
        # The same path in the other collection, if only that one is expected
        collection, _, rest = path.partition("/")
        moved = f"{other.get(collection)}/{rest}"
        flat[moved if path not in wanted and moved in wanted else path] = leaf
    return {"params": {}, "constants": {}} | unflatten(flat)


def check_parameters(
    expected: Any, found: Any, *, source: str, kind: str = "params", first: int = 5, hint: str = ""
) -> None:
    """Raises CheckpointError unless two trees have the same paths and shapes.

    The message counts and lists the missing, unexpected and misshapen arrays.

    Args:
      expected: nested dicts of anything with a shape.
      found: nested dicts of anything with a shape.
      source: name of the source of `found` for the message.
      kind: noun for the arrays in the message.
      first: number of arrays of each kind that the message lists.
      hint: end of the message.
    """
    if found_differences := describe_differences(expected, found, first=first):
        raise CheckpointError(
            f"{source} is of another architecture; its {kind} differ: {found_differences}{hint}"
        )


def describe_differences(expected: Any, found: Any, *, first: int = 5) -> str:
    """Describes how paths and shapes of two trees differ, "" if they do not.

    Args:
      expected: as for `check_parameters`.
      found: as for `check_parameters`.
      first: as for `check_parameters`.
    """
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
    """Applies `check_parameters` to both collections of {"params", "constants"}."""
    for kind in ("params", "constants"):
        check_parameters(
            expected.get(kind, {}), found.get(kind, {}), source=source, kind=kind, hint=hint
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        path: tuple(np.shape(leaf) if np.isscalar(leaf) else leaf.shape)
        for path, leaf in flatten(tree).items()
    }
