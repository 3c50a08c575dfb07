"""Reads files of `torch.save` without torch and without running code in them.

Such a file is a pickle and raw storages, in a zip archive (since torch 1.6) or one after the other.
A pickle is a program. Here it may name only the few functions that rebuild tensors, and any other
name is an error. Storages stay on disk: arrays are read-only views of the mapped file.
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
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first object of a file without an archive
# Errors that damaged files raise.
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    MemoryError,
)


def read_torch(path: str | pathlib.Path) -> Any:
    """Reads a file of `torch.save`, with tensors as NumPy arrays (bfloat16 as in ml_dtypes).

    Example:
      state = read_torch("sam_vit_b_01ec64.pth")

    Args:
      path: a .pth, .pt, .bin or .ckpt file of either format, little-endian.

    Returns:
      Dicts, lists, tuples, numbers and text as saved. Arrays map the file: they are read-only, and
      share memory if the tensors did.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: no file of torch, a damaged one, or one whose pickle names anything but
        tensors and plain containers. No code in it is run.
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
                f"{path} ({size} bytes) is truncated or damaged ({type(error).__name__}: {error}); "
                "fetch it again and compare its size"
            ) from error
    hint = ""
    if start.startswith(b"version https://git-l"):
        hint = "; that is the placeholder of git-lfs: run `git lfs pull`"
    elif start.lstrip()[:1] == b"<":
        hint = "; that is a web page, not the file that was asked for"
    raise CheckpointError(
        f"{path} ({size} bytes) is no file of torch.save: it begins with {start[:24]!r}{hint}"
    )


class _Tensor(NamedTuple):
    """Placeholder of a tensor while the pickle is read. Offset and strides count elements."""

    storage: tuple[str, str, int]  # (key, dtype, elements)
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StorageType(NamedTuple):
    """Placeholder of a class such as torch.FloatStorage."""

    dtype: str


def _tensor(storage, offset, shape, strides, *_) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _parameter(tensor, *_) -> _Tensor:
    return tensor


_ALLOWED_NAMES = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    **{("torch", name): _StorageType(dtype) for name, dtype in STORAGES.items()},
}


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that raises CheckpointError for any name that is not in `allowed_names`.

    Attributes:
      allowed_names: (module, name) -> replacement.
    """

    allowed_names: Mapping[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns the replacement of a name in the pickle."""
        if (module, name) not in self.allowed_names:
            raise CheckpointError(
                f"is refused: its pickle asks for {module}.{name}, which is neither a tensor nor a "
                "plain container. Nothing of it was run. If you trust the file, save its state "
                "dict alone with torch: torch.save(model.state_dict(), path)"
            )
        replacement = self.allowed_names[module, name]
        # A pickle may set attributes of a function that it names, so it gets a wrapper of its own.
        if isinstance(replacement, types.FunctionType):
            return lambda *arguments: replacement(*arguments)
        return replacement


class _Unpickler(RestrictedUnpickler):
    """Unpickler of torch's files. It records the storages that the pickle refers to."""

    allowed_names = _ALLOWED_NAMES

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, np.dtype] = {}

    def persistent_load(self, pid: Any) -> tuple[str, str, int]:
        """Returns key, dtype and number of elements of a storage, without reading it."""
        kind, storage_type, key, _, elements, *view = pid
        if (
            kind != "storage"
            or not isinstance(storage_type, _StorageType)
            or any(v is not None for v in view)
        ):
            raise CheckpointError(
                f"is refused: it refers to a {kind!r} of {storage_type!r}, which is no plain "
                "storage"
            )
        self.storages[str(key)] = _dtype(storage_type.dtype)
        return str(key), storage_type.dtype, int(elements)


def _read_archive(path: pathlib.Path, file: BinaryIO) -> Any:
    """Reads a zip archive of a pickle and one entry for each storage."""
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise CheckpointError(
                "is a zip archive, but none of torch.save's: it has no <name>/data.pkl"
            )
        folder = pickles[0].removesuffix("data.pkl")
        # Archives of torch 2 state their byte order
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
            """Maps the elements of one storage, or reads them if the archive is compressed."""
            entry = archive.getinfo(f"{folder}data/{key}")
            # torch does not compress. Another program may have packed the archive again.
            if entry.compress_type != zipfile.ZIP_STORED:
                return np.frombuffer(archive.read(entry), dtype)
            # The local header ends with the lengths of the name and of the extra field.
            file.seek(entry.header_offset)
            header = file.read(30)
            name_length, extra_length = (
                int.from_bytes(header[at : at + 2], "little") for at in (26, 28)
            )
            begin = entry.header_offset + 30 + name_length + extra_length
            return _map_storage(path, begin, dtype, entry.file_size, elements)

        return _replace_tensors(content, storage)


def _read_legacy(path: pathlib.Path, file: BinaryIO) -> Any:
    """Reads the format before torch 1.6.

    It consists of a magic number, version, machine, object and keys of the storages, then the
    storages, each after its length.
    """
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
    # The storages follow in the order of their keys
    storages, position = {}, None
    for key in _Unpickler(file).load():
        position = file.tell() if position is None else position
        file.seek(position)
        length = int.from_bytes(file.read(8), "little") * unpickler.storages[key].itemsize
        storages[key] = (position + 8, length)
        position += 8 + length

    def storage(key: str, dtype: np.dtype, elements: int) -> np.ndarray:
        begin, length = storages[key]
        return _map_storage(path, begin, dtype, length, elements)

    return _replace_tensors(content, storage)


def _map_storage(
    path: pathlib.Path, begin: int, dtype: np.dtype, length: int, elements: int
) -> np.ndarray:
    """Maps a storage of `length` bytes, which must hold so many elements."""
    if length < elements * dtype.itemsize or begin + length > path.stat().st_size:
        raise EOFError(
            f"a storage of {elements} {dtype} has {length} bytes, and the file ends after it or "
            "within"
        )
    if not elements:
        return np.zeros(0, dtype)
    return np.memmap(path, np.uint8, "r", begin, (elements * dtype.itemsize,)).view(dtype)


def _replace_tensors(content: Any, storage: Any) -> Any:
    """Returns the content with arrays in place of tensors.

    Args:
      content: nested dicts, lists and tuples.
      storage: called as storage(key, dtype, elements), returns a storage as a flat array.
    """
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
    """Returns a tensor as a view of its storage.

    Raises:
      ValueError: the tensor reaches beyond the storage.
    """
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
    # Strides in bytes
    strides = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
