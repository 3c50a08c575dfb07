"""Files that are written whole or not at all: no reader meets half of one, and a failed write leaves the old one.
And the folder in which segjax keeps what it can fetch or make again.
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
    """The path to write to inside the block: it becomes `path` at its end, or is removed when the block fails.

    Makes missing folders. For writers that want a path; `write_atomic` serves whoever has the content in hand.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for a rename across disks is a copy; and nobody else's, of another machine or thread either.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk does not say whose
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def cache_folder() -> pathlib.Path:
    """segjax's folder in the user's cache: $XDG_CACHE_HOME/segjax, or ~/.cache/segjax. It need not exist yet."""
    return (
        pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "segjax"
    )


def write_atomic(path: str | os.PathLike, data: bytes | str) -> None:
    """Writes a file whole or not at all; text as UTF-8. Makes missing folders."""
    content = data.encode() if isinstance(data, str) else data
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_json(
    path: str | os.PathLike, value: Any, *, indent: int = 2, sort_keys: bool = True
) -> None:
    """Writes a JSON file whole or not at all. Makes missing folders.

    Raises ValueError for a number that is not finite, which JSON cannot say, TypeError for what is no JSON.
    """
    try:
        text = json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"{path} is not written: {error}; replace what is infinite or not a number"
        ) from error
    write_atomic(path, text + "\n")
