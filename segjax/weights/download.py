"""Downloads published weights into the user's cache, and checks them every time."""

import contextlib
import hashlib
import http.client
import pathlib
import urllib.request
from collections.abc import Callable, Iterator

from segjax.files import atomic_path, get_cache_folder
from segjax.weights.registry import PublishedFile
from segjax.weights.tree import CheckpointError

CHUNK = 1 << 20


def get_weights_folder() -> pathlib.Path:
    """Returns the folder of published files, `weights` in segjax's cache folder."""
    return get_cache_folder() / "weights"


def fetch(file: PublishedFile, folder: pathlib.Path | None = None) -> pathlib.Path:
    """Returns the path of a published file, downloading it if it is not in the cache.

    A download is complete or leaves nothing behind. It shows a progress bar.

    Example:
      path = fetch(PUBLISHED["sam_vit_b"])

    Args:
      file: an entry of `segjax.weights.registry.PUBLISHED`.
      folder: where the file is stored. None: `get_weights_folder()`.

    Raises:
      ConnectionError: the file is missing and cannot be downloaded. The message says where to get
        it and where to put it.
      CheckpointError: size or SHA-256 differ from the registry's. A download is deleted, a file
        that was there stays.
    """
    path = (folder or get_weights_folder()) / file.name
    if path.is_file():
        with path.open("rb") as cached:
            _check(file, path, *_copy(cached.read, lambda data: None))
        return path
    try:
        with urllib.request.urlopen(file.url, timeout=60) as source, atomic_path(path) as partial:
            with partial.open("wb") as target, _progress(file) as advance:
                measured = _copy(source.read, lambda data: (target.write(data), advance(len(data))))
            _check(file, file.url, *measured)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"{file.name} ({file.bytes:,} bytes) is not in the cache and cannot be fetched: "
            f"{str(error) or type(error).__name__}. Fetch {file.url} where there is a network and "
            f"put it at {path}, or name your copy: segjax.load(model, path)"
        ) from error
    return path


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> tuple[int, str]:
    """Copies all data and returns its number of bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    while data := read(CHUNK):
        digest.update(data)
        size += len(data)
        write(data)
    return size, digest.hexdigest()


def _check(file: PublishedFile, source: object, size: int, sha256: str) -> None:
    if size != file.bytes:
        raise CheckpointError(
            f"{source} has {size:,} bytes, expected {file.bytes:,}: it is incomplete or another "
            "file"
        )
    if sha256 != file.sha256:
        raise CheckpointError(
            f"{source} is not the published file: its SHA-256 is {sha256}, expected "
            f"{file.sha256}. To use it anyway, name it: segjax.load(model, path)"
        )


@contextlib.contextmanager
def _progress(file: PublishedFile) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar on standard error. Yields a function that advances it by bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(file.name, total=file.bytes)
        yield lambda count: bars.advance(task, count)
