"""Writes a state dict as `torch.save` does, without torch.

The file is a zip archive of a small pickle and raw storages.
"""

import io
import pathlib
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

from segjax.files import atomic_path
from segjax.weights.pickles.tensors import STORAGES

_TYPES = {dtype: name for name, dtype in STORAGES.items()}


def write_torch(path: str | pathlib.Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict for `torch.load(path, weights_only=True)`, completely or not at all.

    Args:
      path: of the file. Missing folders are created.
      state: key -> array, of a dtype that torch has (float64 to bfloat16, int64 to int8, uint8,
        bool).

    Raises:
      ValueError: an array of another dtype.
    """
    for key, array in state.items():
        if str(array.dtype) not in _TYPES:
            raise ValueError(
                f"{key} is {array.dtype}, which torch files cannot hold; expected one of "
                f"{', '.join(_TYPES)}"
            )
    with atomic_path(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickle(state))
        archive.writestr("archive/byteorder", "little")
        for number, array in enumerate(state.values()):
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            with archive.open(f"archive/data/{number}", "w", force_zip64=True) as storage:
                storage.write(little.reshape(-1).view(np.uint8))
        archive.writestr("archive/version", "3\n")


def _pickle(state: Mapping[str, np.ndarray]) -> bytes:
    """Returns an OrderedDict of tensors as a pickle (protocol 2), one storage for each tensor.

    Opcodes are written by hand, because the names in the pickle are torch's.
    """
    out = io.BytesIO()
    out.write(b"\x80\x02ccollections\nOrderedDict\n)R(")
    for number, (key, array) in enumerate(state.items()):
        # Arguments of _rebuild_tensor_v2: storage, offset, shape, strides, requires_grad, hooks
        strides = np.cumprod((1, *array.shape[:0:-1]))[::-1][: array.ndim]
        out.write(_text(key) + b"ctorch._utils\n_rebuild_tensor_v2\n((")
        out.write(_text("storage") + f"ctorch\n{_TYPES[str(array.dtype)]}\n".encode())
        out.write(_text(str(number)) + _text("cpu") + _number(array.size) + b"tQ")
        out.write(
            _number(0)
            + _numbers(array.shape)
            + _numbers(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR"
        )
    out.write(b"u.")
    return out.getvalue()


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _numbers(values) -> bytes:
    return b"(" + b"".join(_number(int(value)) for value in values) + b"t"
