"""Builds arrays from the tensors and storages that pickles of torch describe."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from segjax.weights.pickles.arrays import ARRAY_NAMES, MAX_DIMENSIONS, ArrayPlaceholder
from segjax.weights.pickles.values import Inert, Name, describe, replace_values

# Class of a storage -> dtype
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
# Those that only the reader knows, so that a file may hold them beside its weights
_OTHER_STORAGES = {
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
}
_REPEATED = 1 << 20  # elements that a tensor may have beyond those of its storage


class ForeignArray(np.ndarray):
    """NumPy's own array in a file of torch, where parameters are tensors."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Placeholder of a storage: its key, dtype and number of elements."""

    key: str
    dtype: np.dtype
    elements: int


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Placeholder of a tensor while the pickle is read. Offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _make_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
    if not isinstance(storage, Storage):
        return Inert(f"a tensor on {describe(storage)}")
    numbers = (offset, *shape[:MAX_DIMENSIONS], *strides[:MAX_DIMENSIONS])
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS or set(map(type, numbers)) > {int}:
        raise ValueError(f"a tensor has {len(shape)} dimensions and {len(strides)} strides")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _make_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _make_subclass(function: Any, _: Any, arguments: tuple[Any, ...], *state: Any) -> Any:
    """Returns a tensor of a subclass of torch.Tensor as a plain tensor."""
    if isinstance(function, Name) and function.module == "torch._utils":
        make = TENSOR_NAMES.get((function.module, function.name))
        if make in (_make_tensor, _make_parameter):
            return make(*arguments)
    return Inert(f"a tensor made by {describe(function)}")


TENSOR_NAMES: Mapping[tuple[str, str], Callable[..., Any]] = ARRAY_NAMES | {
    ("torch._utils", "_rebuild_tensor"): _make_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _make_tensor,
    ("torch._utils", "_rebuild_parameter"): _make_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _make_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _make_subclass,
    ("torch", "Size"): lambda shape=(), *_: tuple(shape),
}


def find_storage(identifier: Any) -> Storage | Inert:
    """Returns the storage that a persistent identifier names, without reading it."""
    kind, storage_type, key, _, elements, *view = identifier
    name = (STORAGES | _OTHER_STORAGES).get(getattr(storage_type, "name", ""))
    if kind != "storage" or name is None or any(v is not None for v in view):
        return Inert(f"a storage of {describe(storage_type)}")
    if type(elements) is not int or elements < 0 or not isinstance(key, (str, int)):
        raise ValueError(f"a storage has {describe(elements)} elements and {describe(key)} as key")
    return Storage(str(key), _to_dtype(name), elements)


def replace_tensors(content: Any, read_storage: Callable[[Storage], np.ndarray]) -> Any:
    """Returns the content with arrays in place of tensors.

    Args:
      content: nested dicts, lists and tuples.
      read_storage: returns the bytes of a storage.
    """
    opened: dict[tuple[str, np.dtype], np.ndarray] = {}

    def replace(value: Any) -> Any:
        if isinstance(value, ArrayPlaceholder):
            array = value.to_array()
            return array.view(ForeignArray) if isinstance(array, np.ndarray) else array
        if isinstance(value, Storage):
            return Inert("a storage without a tensor")
        if not isinstance(value, Tensor):
            return value
        storage = value.storage
        place = storage.key, storage.dtype
        if place not in opened:
            count = storage.elements * storage.dtype.itemsize
            content = read_storage(storage) if count else np.zeros(0, np.uint8)
            if content.size < count:
                raise EOFError(
                    f"a storage of {storage.elements} {storage.dtype} has {content.size} bytes"
                )
            opened[place] = content[:count].view(storage.dtype)
        return _view(opened[place], value)

    return replace_values(content, replace)


def _view(flat: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Returns a tensor as a view of its storage.

    Raises:
      ValueError: the tensor reaches beyond the storage.
    """
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0:
        raise ValueError(
            f"a tensor of shape {tensor.shape}, strides {tensor.strides} and offset {tensor.offset}"
        )
    elements = math.prod(tensor.shape)
    if not elements:
        return np.zeros(tensor.shape, flat.dtype)
    last = tensor.offset + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if last >= flat.size:
        raise ValueError(
            f"a tensor of shape {tensor.shape} reaches element {last} of a storage of {flat.size}"
        )
    # Strides of zero repeat elements. Small tables are stored so, and nothing that is large.
    if elements > max(flat.size, _REPEATED):
        raise ValueError(f"a tensor of shape {tensor.shape} has a storage of {flat.size} elements")
    # Strides in bytes
    strides = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )


def _to_dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
