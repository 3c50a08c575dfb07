"""Reads files of `torch.save` without torch and without running code in them.

Such a file is a pickle and raw storages, in a zip archive (since torch 1.6) or one after the other.
The pickle is interpreted by `segjax.weights.pickles`. Storages stay on disk: arrays are read-only
views of the mapped file.
"""

import errno
import pathlib
import struct
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from segjax.weights.pickles.machine import PickleMachine
from segjax.weights.pickles.scripts import (
    ScriptModule,
    ScriptState,
    find_module_class,
    flatten_modules,
)
from segjax.weights.pickles.tensors import TENSOR_NAMES, Storage, find_storage, replace_tensors
from segjax.weights.pickles.values import Inert, describe
from segjax.weights.tree import CheckpointError
from segjax.weights.zip_members import ZipMembers

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first object of a file without an archive
# Errors that damaged files raise.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
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
      path: a .pth, .pt, .bin or .ckpt file of either format, or of `torch.jit.save`,
        little-endian.

    Returns:
      Dicts, lists, tuples, numbers and text as saved, or the `ScriptState` of a TorchScript
      archive, whose code is not read. Arrays map the file: they are read-only, and
      share memory if the tensors did. Objects of other classes are `Inert` values.

    Raises:
      FileNotFoundError: no such file.
      CheckpointError: no file of torch, a damaged one, or one whose pickle asks for a function that
        runs programs. No code in it is run.
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
        except (*DAMAGE, OSError) as error:
            # Offsets beyond all bounds are an OSError of `seek`
            if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOVERFLOW):
                raise
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


def _read_archive(path: pathlib.Path, file: BinaryIO) -> Any:
    """Reads a zip archive of a pickle and one member for each storage."""
    members = ZipMembers(file, path.stat().st_size)
    pickles = [name for name in members.names if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise CheckpointError(
            "is a zip archive, but none of torch.save's: it has no <name>/data.pkl"
        )
    folder = pickles[0].removesuffix("data.pkl")
    # Archives of torch 2 state their byte order
    order = f"{folder}byteorder"
    if order in members.names and members.read(order).strip() != b"little":
        raise CheckpointError(
            "was written on a big-endian machine; save it again on a little-endian one"
        )
    data = members.read(pickles[0])
    content = PickleMachine(
        data, TENSOR_NAMES, find_persistent=find_storage, find_class=find_module_class
    ).load()
    kinds = None
    if isinstance(content, ScriptModule):
        content = flatten_modules(content)
        kinds = content.kinds
    mapped = np.memmap(path, np.uint8, "r")

    def read_storage(storage: Storage) -> np.ndarray:
        """Maps the bytes of one storage, or reads them if the member is compressed."""
        name = f"{folder}data/{storage.key}"
        # torch does not compress. Another program may have packed the archive again.
        if (span := members.find_stored(name)) is None:
            return np.frombuffer(members.read(name), np.uint8)
        return _slice(mapped, *span)

    if kinds is None:
        return replace_tensors(content, read_storage)
    state = ScriptState(replace_tensors(dict(content), read_storage))
    state.kinds = kinds
    return state


def _read_legacy(path: pathlib.Path, file: BinaryIO) -> Any:
    """Reads the format before torch 1.6.

    It consists of a magic number, version, machine, object and keys of the storages, then the
    storages, each after its length.
    """
    mapped = np.memmap(path, np.uint8, "r")
    data = mapped.base  # the map itself, which slices into bytes
    storages: dict[str, Storage] = {}

    def record_storage(identifier: Any) -> Storage | Inert:
        storage = find_storage(identifier)
        if isinstance(storage, Storage):
            storages[storage.key] = storage
        return storage

    position = 0

    def read() -> Any:
        nonlocal position
        pickle = PickleMachine(
            data, TENSOR_NAMES, find_persistent=record_storage, position=position
        )
        value, position = pickle.load(), pickle.position
        return value

    if read() != _LEGACY_MAGIC:
        raise CheckpointError(
            "is a pickle, but none of torch.save's; expected a file that torch.save wrote"
        )
    _, machine = read(), read()
    if not machine.get("little_endian", True):
        raise CheckpointError(
            "was written on a big-endian machine; save it again on a little-endian one"
        )
    content, keys = read(), read()
    # The storages follow in the order of their keys
    spans = {}
    for key in keys:
        length = int.from_bytes(data[position : position + 8], "little")
        if str(key) not in storages:
            raise ValueError(f"storage {describe(key)} has a type that is not read")
        length *= storages[str(key)].dtype.itemsize
        spans[str(key)] = (position + 8, length)
        position += 8 + length
    return replace_tensors(content, lambda storage: _slice(mapped, *spans[storage.key]))


def _slice(mapped: np.ndarray, begin: int, length: int) -> np.ndarray:
    """Returns the bytes of a storage."""
    if begin + length > mapped.size:
        raise EOFError(f"a storage ends at byte {begin + length:,}, and the file before it")
    return mapped[begin : begin + length]
