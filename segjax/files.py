"""Atomic writes, JSON files that may be damaged, and the folder of segjax's cache.

A file is written under another name and renamed when it is complete. Readers never see half of
it, and a failed write leaves the old file in place.
"""

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, which becomes `path` at the end of the block.

    If the block fails, the temporary file is removed. Missing folders are made. Use it for
    writers that need a path. `write_atomic` is shorter if the content is at hand.

    Example:
      >>> with atomic_path("scores.npy") as partial:
      ...     np.save(partial.open("wb"), scores)
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary file lies in the same folder, because a rename across disks is a copy. The
    # random suffix keeps other machines and threads from writing to the same one.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        # A full disk does not name the file.
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file atomically. Text becomes UTF-8, and missing folders are made."""
    content = data.encode() if isinstance(data, str) else data
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def check_writable(folder: str | os.PathLike) -> None:
    """Checks that files can be written to a folder, before a long computation. Creates nothing.

    Raises:
      OSError: The folder, or the nearest one above it that exists, is a file or cannot be written.
    """
    folder = nearest = pathlib.Path(folder).absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(f"{folder} cannot hold results: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{folder} cannot be written: no permission to create files in {nearest}; name another "
            "folder"
        )


def write_json(
    path: str | os.PathLike, value: Any, *, indent: int = 2, sort_keys: bool = True
) -> None:
    """Writes a JSON file atomically. Missing folders are made.

    Args:
      path: of the file.
      value: anything that the json module accepts.
      indent: spaces per level.
      sort_keys: write keys in alphabetical order.

    Raises:
      ValueError: a number is infinite or NaN, which JSON does not allow.
      TypeError: a value has no JSON form.
    """
    try:
        text = json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"{path} is not written: {error}; replace infinite numbers and NaN"
        ) from error
    write_atomic(path, text + "\n")


def read_json_object(path: str | os.PathLike, remedy: str) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
      path: The file.
      remedy: End of the error message: how to go on without this file.

    Raises:
      OSError: The file cannot be read.
      ValueError: The content is empty, cut short, no JSON or no object. The message names the
        file and the fault.
    """
    content = pathlib.Path(path).read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        fault = "is empty" if not content.strip(b"\0 \n") else f"is no valid JSON ({error})"
    else:
        if isinstance(value, dict):
            return value
        fault = f"holds {_name_json_type(value)} instead of an object"
    raise ValueError(f"{path} is damaged: it {fault}; {remedy}")


def _name_json_type(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def get_cache_folder() -> pathlib.Path:
    """Returns segjax's folder in the user's cache, which may not exist yet.

    It is $XDG_CACHE_HOME/segjax, or ~/.cache/segjax.
    """
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "segjax"
