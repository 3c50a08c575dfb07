"""Reads detectron2's model zoo, pickles of NumPy arrays, without running code in them."""

import mmap
import pathlib
from typing import Any

from segjax.weights.pickles.arrays import ARRAY_NAMES, ArrayPlaceholder
from segjax.weights.pickles.machine import PickleMachine
from segjax.weights.pickles.values import replace_values
from segjax.weights.torch_file import DAMAGE
from segjax.weights.tree import CheckpointError

SUFFIX = ".pkl"


def read_pickle(path: str | pathlib.Path) -> Any:
    """Reads a pickle of dicts, lists, tuples, numbers, text and NumPy arrays of numbers.

    Args:
      path: a .pkl file of detectron2's zoo, {"model": {name: array}, "__author__": ...}. It may
        come from Python 2 or 3 and any version of NumPy.

    Returns:
      The content. Objects of other classes are `Inert` values.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: no pickle, a damaged one, or one that asks for a function that runs programs.
        No code in it is run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a pickle of detectron2's")
    size = path.stat().st_size
    try:
        if not size:
            raise EOFError("the file is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return replace_values(PickleMachine(data, ARRAY_NAMES).load(), _to_array)
    except CheckpointError as error:
        raise CheckpointError(f"{path} ({size} bytes) {error}") from error
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} ({size} bytes) is no pickle, or is truncated or damaged "
            f"({type(error).__name__}: {error}); fetch it again and compare its size"
        ) from error


def _to_array(value: Any) -> Any:
    return value.to_array() if isinstance(value, ArrayPlaceholder) else value
