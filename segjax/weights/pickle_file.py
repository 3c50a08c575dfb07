"""Reads detectron2's model zoo, pickles of NumPy arrays, without running code in them.

As in `torch_file`, a pickle may name only plain containers and the functions that rebuild arrays.
Arrays of numbers are built in this module, and never by NumPy from the file's instructions.
"""

import collections
import math
import pathlib
from typing import Any

import numpy as np

from segjax.weights.torch_file import DAMAGE, RestrictedUnpickler
from segjax.weights.tree import CheckpointError

SUFFIX = ".pkl"


def read_pickle(path: str | pathlib.Path) -> Any:
    """Reads a pickle of dicts, lists, tuples, numbers, text and NumPy arrays of numbers.

    Args:
      path: a .pkl file of detectron2's zoo, {"model": {name: array}, "__author__": ...}. It may
        come from Python 2 or 3 and any version of NumPy.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: no pickle, a damaged one, or one that names anything else. No code in it is
        run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected a pickle of detectron2's")
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            return _to_arrays(_Unpickler(file, encoding="latin1").load())
        except CheckpointError as error:
            raise CheckpointError(f"{path} ({size} bytes) {error}") from error
        except DAMAGE as error:
            raise CheckpointError(
                f"{path} ({size} bytes) is no pickle, or is truncated or damaged "
                f"({type(error).__name__}: {error}); fetch it again and compare its size"
            ) from error


class _Type:
    """Placeholder of a dtype: its name, and its byte order from the pickle's state."""

    def __init__(self, name: str) -> None:
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = {"|": "<", "=": "<"}.get(str(state[1]), str(state[1]))

    def numpy(self) -> np.dtype:
        dtype = np.dtype(self.order + self.name if self.name[:1] in "fiu" else self.name)
        if dtype.kind not in "fiub":
            raise ValueError(f"an array of {self.name!r}, which is not a number")
        return dtype


class _Array:
    """Placeholder of an array: shape, dtype, order and bytes from the pickle's state."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, self.dtype, self.fortran, data = state
        self.shape = tuple(map(int, shape))
        self.data = data.encode("latin1") if isinstance(data, str) else bytes(data)

    def numpy(self) -> np.ndarray:
        dtype = self.dtype.numpy()
        if len(self.data) != math.prod(self.shape) * dtype.itemsize:
            raise ValueError(
                f"an array of shape {self.shape} and {dtype} has {len(self.data)} bytes"
            )
        flat = np.frombuffer(self.data, dtype).astype(dtype.newbyteorder("="), copy=False)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _reconstruct(*_) -> _Array:
    return _Array()


def _dtype(name, *_) -> _Type:
    return _Type(name)


def _scalar(dtype: _Type, data: Any) -> _Array:
    array = _Array()
    array.__setstate__((1, (), dtype, False, data))
    return array


def _from_buffer(data: Any, dtype: _Type, shape: tuple, order: str) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(
        "latin1" if encoding != "utf-8" else encoding
    )  # protocol 2 writes bytes as text


def _no_bytes() -> bytes:
    return b""


def _nothing(*_) -> None:
    return None


class _Unpickler(RestrictedUnpickler):
    """Unpickler of NumPy arrays. numpy.core was renamed to numpy._core, so both are known."""

    allowed_names = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("_codecs", "encode"): _encode,
        ("__builtin__", "bytes"): _no_bytes,  # protocol 2 writes b"" so
        ("numpy", "dtype"): _dtype,
        ("numpy", "ndarray"): _nothing,  # an argument of `_reconstruct`
        **{
            (f"numpy.{core}.{module}", name): function
            for core in ("core", "_core")
            for module, name, function in (
                ("multiarray", "_reconstruct", _reconstruct),
                ("multiarray", "scalar", _scalar),
                ("numeric", "_frombuffer", _from_buffer),
            )
        },
    }


def _to_arrays(value: Any) -> Any:
    """Returns the value with arrays in place of their placeholders."""
    if isinstance(value, _Array):
        return value.numpy()
    if isinstance(value, dict):
        return {name: _to_arrays(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_to_arrays, value))
    return value
