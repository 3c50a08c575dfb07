"""Reading what `torch.save` wrote, without torch and without running anything: tensors, containers, numbers, text.

A file of torch's is a pickle beside raw storages, in a zip archive (since torch 1.6) or one after the other. A pickle
is a program; ours may name the few functions that rebuild tensors, and any other name ends the reading. Storages stay
on disk: arrays are views of the mapped file, read-only, and read when they are used.
"""

import collections
import math
import pathlib
import pickle
import types
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from segjax.weights.tree import CheckpointError

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first object of a file without an archive
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
)
DAMAGE += (AttributeError, NotImplementedError, OverflowError, RecursionError, MemoryError)


def read_torch(path: str | pathlib.Path) -> Any:
    """What a file of `torch.save` holds, tensors as NumPy arrays (bfloat16 by ml_dtypes).

    Args:
      path: a .pth, .pt, .bin or .ckpt file of either format, little-endian.

    Returns:
      Dicts, lists, tuples, numbers and text as saved. Arrays map the file: they are read-only, and may share memory
      where the tensors did.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: no file of torch's, truncated or damaged, or its pickle names anything but tensors and plain
        containers; nothing of it is run.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected one that torch.save wrote")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        file.seek(0)
        try:
            if start.startswith(b"PK\x03\x04"):
                return _read_archive(path, file)
            if start.startswith(b"\x80"):
                return _read_legacy(path, file)
        except CheckpointError as error:
            raise CheckpointError(f"{path} ({size} bytes) {error}") from error
        except DAMAGE as error:
            raise CheckpointError(
                f"{path} ({size} bytes) is truncated or damaged ({type(error).__name__}: {error}); fetch it again and "
                "compare its size"
            ) from error
    raise CheckpointError(
        f"{path} ({size} bytes) is no file of torch.save: it begins with {start[:24]!r}"
        + (
            "; that is the placeholder of git-lfs: run `git lfs pull`"
            if start.startswith(b"version https://git-l")
            else ""
        )
        + (
            "; that is a web page, not the file that was asked for"
            if start.lstrip()[:1] == b"<"
            else ""
        )
    )


class _Tensor(NamedTuple):
    """A tensor while the pickle is read: where it lies in which storage, in elements."""

    storage: tuple[str, str, int]  # (key, dtype, elements)
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StorageType(NamedTuple):
    dtype: str


def _tensor(storage, offset, shape, strides, *_) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(tensor, *_) -> _Tensor:
    return tensor


_MAY_NAME = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    **{("torch", name): _StorageType(dtype) for name, dtype in STORAGES.items()},
}


class RestrictedUnpickler(pickle.Unpickler):
    """A pickle that can name what `may_name` lists and nothing else; another name ends it with a CheckpointError."""

    may_name: Mapping[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle."""
        if (module, name) not in self.may_name:
            raise CheckpointError(
                f"is refused: its pickle asks for {module}.{name}, which is neither a tensor nor a plain container. "
                "Nothing of it was run. If you trust the file, save its state dict alone with torch: "
                "torch.save(model.state_dict(), path)"
            )
        found = self.may_name[module, name]
        # A pickle may set attributes of what it names: of a function it gets a wrapper of its own.
        return (
            (lambda *arguments: found(*arguments))
            if isinstance(found, types.FunctionType)
            else found
        )


class _Unpickler(RestrictedUnpickler):
    """One of torch's; notes the storages that it refers to."""

    may_name = _MAY_NAME

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, np.dtype] = {}

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        kind, storage_type, key, _, elements, *view = pid
        if (
            kind != "storage"
            or not isinstance(storage_type, _StorageType)
            or any(v is not None for v in view)
        ):
            raise CheckpointError(
                f"is refused: it refers to a {kind!r} of {storage_type!r}, which is no plain storage"
            )
        self.storages[str(key)] = _dtype(storage_type.dtype)
        return str(key), storage_type.dtype, int(elements)


def _read_archive(path: pathlib.Path, file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise CheckpointError(
                "is a zip archive, but none of torch.save's: it has no <name>/data.pkl"
            )
        folder = pickles[0].removesuffix("data.pkl")
        if (
            f"{folder}byteorder" in archive.namelist()
            and archive.read(f"{folder}byteorder").strip() != b"little"
        ):
            raise CheckpointError(
                "was written on a big-endian machine; save it again on a little-endian one"
            )
        with archive.open(pickles[0]) as data:
            content = _Unpickler(data).load()

        def storage(key: str, dtype: np.dtype, elements: int) -> np.ndarray:
            entry = archive.getinfo(f"{folder}data/{key}")
            if (
                entry.compress_type != zipfile.ZIP_STORED
            ):  # torch stores; somebody else has packed it again
                return np.frombuffer(archive.read(entry), dtype)
            file.seek(entry.header_offset)
            header = file.read(30)
            begin = entry.header_offset + 30 + int.from_bytes(header[26:28], "little")
            return _mapped(
                path,
                begin + int.from_bytes(header[28:30], "little"),
                dtype,
                entry.file_size,
                elements,
            )

        return _with_arrays(content, storage)


def _read_legacy(path: pathlib.Path, file: BinaryIO) -> Any:
    """Magic number, version, machine, the object, keys of the storages; then each storage after its length."""
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise CheckpointError(
            "is a pickle, but none of torch.save's; expected a file that torch.save wrote"
        )
    _, machine = (_Unpickler(file).load() for _ in range(2))
    if not machine.get("little_endian", True):
        raise CheckpointError(
            "was written on a big-endian machine; save it again on a little-endian one"
        )
    unpickler = _Unpickler(file)
    content = unpickler.load()
    places, position = {}, None
    for key in _Unpickler(file).load():
        position = file.tell() if position is None else position
        file.seek(position)
        length = int.from_bytes(file.read(8), "little") * unpickler.storages[key].itemsize
        places[key] = (position + 8, length)
        position += 8 + length
    return _with_arrays(
        content, lambda key, dtype, n: _mapped(path, places[key][0], dtype, places[key][1], n)
    )


def _mapped(
    path: pathlib.Path, begin: int, dtype: np.dtype, length: int, elements: int
) -> np.ndarray:
    if length < elements * dtype.itemsize or begin + length > path.stat().st_size:
        raise EOFError(
            f"a storage of {elements} {dtype} has {length} bytes, and the file ends after it or within"
        )
    if not elements:
        return np.zeros(0, dtype)
    return np.memmap(path, np.uint8, "r", begin, (elements * dtype.itemsize,)).view(dtype)


def _with_arrays(content: Any, storage: Any) -> Any:
    """The content with an array in place of each tensor; `storage(key, dtype, elements)` gives its flat array."""
    opened: dict[str, np.ndarray] = {}

    def convert(value: Any) -> Any:
        if isinstance(value, _Tensor):
            key, name, elements = value.storage
            if key not in opened:
                opened[key] = storage(key, _dtype(name), elements)
            return _view(opened[key], value)
        if isinstance(value, dict):
            return {name: convert(child) for name, child in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(map(convert, value))
        return value

    return convert(content)


def _view(flat: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """The tensor's elements within its storage, which it must not leave."""
    if (
        len(tensor.shape) != len(tensor.strides)
        or min((tensor.offset, *tensor.shape, *tensor.strides)) < 0
    ):
        raise ValueError(
            f"a tensor of shape {tensor.shape}, strides {tensor.strides} and offset {tensor.offset}"
        )
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, flat.dtype)
    last = tensor.offset + sum(
        (n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True)
    )
    if last >= flat.size:
        raise ValueError(
            f"a tensor of shape {tensor.shape} reaches element {last} of a storage of {flat.size}"
        )
    strides = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
