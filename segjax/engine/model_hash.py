"""Name of a model in the records of a data engine: a hash of its weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def hash_weights(variables: Mapping[str, Any]) -> str:
    """Returns the first 16 digits of the SHA-256 of all arrays and their paths.

    Args:
      variables: {"params", "constants"}, nested dicts of arrays.
    """
    digest = hashlib.sha256()
    for name, array in sorted(_list_arrays(variables, "")):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _list_arrays(tree: Any, path: str) -> list[tuple[str, Any]]:
    """Returns (path, array) of every array of nested dicts."""
    if not isinstance(tree, Mapping):
        return [(path, np.asarray(tree))]
    return [row for key in tree for row in _list_arrays(tree[key], f"{path}/{key}")]
