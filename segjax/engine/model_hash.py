"""Name of a model in the records of a data engine: a hash of its weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.weights.tree import flatten


def hash_weights(variables: Mapping[str, Any]) -> str:
    """Returns the first 16 digits of the SHA-256 of all arrays and their paths.

    Args:
      variables: {"params", "constants"}, nested dicts of arrays.
    """
    digest = hashlib.sha256()
    for path, array in sorted(flatten(variables).items()):
        digest.update(f"/{path}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
