"""Published files in the user's cache: fetched once, checked every time."""

import contextlib
import hashlib
import http.client
import pathlib
import urllib.request
from collections.abc import Callable, Iterator

from segjax.files import get_cache_folder, atomic_path
from segjax.weights.registry import PublishedFile
from segjax.weights.tree import CheckpointError

CHUNK = 1 << 20


def weights_folder() -> pathlib.Path:
    """Where published files are kept: `weights` in segjax's cache folder."""
    return get_cache_folder() / "weights"


def fetch(file: PublishedFile, folder: pathlib.Path | None = None) -> pathlib.Path:
    """The path of a published file: from the cache, else downloaded into it, whole or not at all, with progress.

    Args:
      file: what and where (`segjax.weights.registry.PUBLISHED`).
      folder: to keep it in; None: `weights_folder()`.

    Raises:
      ConnectionError: it is not there and cannot be fetched; says what to fetch from where and where to put it.
      CheckpointError: size or SHA-256 is another than the registry's; a download is thrown away, a file that lay there
        stays.
    """
    path = (folder or weights_folder()) / file.name
    if path.is_file():
        with path.open("rb") as kept:
            _check(file, path, *_copied(kept.read, lambda data: None))
        return path
    try:
        with urllib.request.urlopen(file.url, timeout=60) as source, atomic_path(path) as partial:
            with partial.open("wb") as target, _progress(file) as advance:
                found = _copied(source.read, lambda data: (target.write(data), advance(len(data))))
            _check(file, file.url, *found)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"{file.name} ({file.bytes:,} bytes) is not in the cache and cannot be fetched: "
            f"{str(error) or type(error).__name__}. Fetch {file.url} where there is a network and put it at {path}, "
            "or name your copy: segjax.load(model, path)"
        ) from error
    return path


def _copied(read: Callable[[int], bytes], put: Callable[[bytes], object]) -> tuple[int, str]:
    """(bytes, SHA-256) of what went from `read` to `put`."""
    digest, size = hashlib.sha256(), 0
    while data := read(CHUNK):
        digest.update(data)
        size += len(data)
        put(data)
    return size, digest.hexdigest()


def _check(file: PublishedFile, place: object, size: int, sha256: str) -> None:
    if size != file.bytes:
        raise CheckpointError(
            f"{place} has {size:,} bytes, expected {file.bytes:,}: it is incomplete or another file"
        )
    if sha256 != file.sha256:
        raise CheckpointError(
            f"{place} is not the published file: its SHA-256 is {sha256}, expected {file.sha256}. If you mean to use "
            "it all the same, name it: segjax.load(model, path)"
        )


@contextlib.contextmanager
def _progress(file: PublishedFile) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; gives the function that moves it on by a number of bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(file.name, total=file.bytes)
        yield lambda count: bars.advance(task, count)
