"""Builds NumPy arrays from pickles, without NumPy following the pickle's instructions."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segjax.weights.pickles.values import Inert, Placeholder, describe

MAX_DIMENSIONS = 32


class TypePlaceholder(Placeholder):
    """Placeholder of a dtype.

    Attributes:
      name: dtype, such as "f4".
      order: "<" or ">".
    """

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = str(name)[:20], "<"

    def set_state(self, state: Any) -> None:
        """Sets the byte order, the second entry of the state."""
        self.order = ">" if state[1] == ">" else "<"


class ArrayPlaceholder(Placeholder):
    """Placeholder of an array, until `to_array` is called."""

    def __init__(self, *_: Any) -> None:
        self._state: tuple[Any, ...] = ()
        self._array: np.ndarray | Inert | None = None  # made once, however often it is asked for

    def set_state(self, state: Any) -> None:
        """Sets version, shape, dtype, Fortran order and bytes."""
        self._state, self._array = tuple(state), None

    def to_array(self) -> np.ndarray | Inert:
        """Returns the array, or an `Inert` value if its elements are not numbers.

        Raises:
          ValueError: bytes that do not fill the shape.
        """
        if self._array is None:
            self._array = self._make()
        return self._array

    def _make(self) -> np.ndarray | Inert:
        _, shape, kind, fortran, data = self._state
        if not isinstance(kind, TypePlaceholder) or not re.fullmatch(r"[fiub]\d{1,2}", kind.name):
            return Inert(f"an array of {getattr(kind, 'name', describe(kind))}")
        dtype = np.dtype(kind.order + kind.name)
        if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"an array has the shape {describe(shape)}")
        content = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} and {dtype} has {len(content)} bytes")
        flat = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="), copy=False)
        return flat.reshape(shape, order="F" if fortran else "C")


def _make_scalar(kind: Any, data: Any = b"", *_: Any) -> ArrayPlaceholder:
    array = ArrayPlaceholder()
    array.set_state((1, (), kind, False, data))
    return array


def _make_from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> ArrayPlaceholder:
    array = ArrayPlaceholder()
    array.set_state((1, shape, kind, order == "F", data))
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Returns bytes that protocols 0 to 2 write as text."""
    return text.encode("utf-8" if encoding == "utf-8" else "latin1")


# numpy.core was renamed to numpy._core, so both are known.
ARRAY_NAMES: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): lambda *_: b"",  # b"" in protocol 2
    ("numpy", "dtype"): TypePlaceholder,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", ArrayPlaceholder),
            ("multiarray", "scalar", _make_scalar),
            ("numeric", "_frombuffer", _make_from_buffer),
        )
    },
}
