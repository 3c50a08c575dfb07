"""Downloads published weights into the user's cache, and checks them every time."""

import contextlib
import hashlib
import http.client
import pathlib
import urllib.request
from collections.abc import Callable, Iterator

from segjax.files import atomic_path, get_cache_folder
from segjax.messages import make_printable
from segjax.weights.registry import PACKAGED, PublishedFile, find_packaged, find_published
from segjax.weights.tree import CheckpointError

CHUNK = 1 << 20


def get_weights_folder() -> pathlib.Path:
    """Returns the folder of published files, `weights` in segjax's cache folder."""
    return get_cache_folder() / "weights"


def fetch_named(name: str) -> pathlib.Path | None:
    """Returns the file of weights by their name, or None if no weights are called so.

    Weights of the package come first. Published ones are downloaded, see `fetch`.

    Args:
      name: such as "sam_tiny_demo" or "sam_vit_b", in upper or lower case.

    Raises:
      FileNotFoundError: the package lacks its own file.
      CheckpointError: the package's file has changed.
      ConnectionError: as `fetch`.
    """
    if packaged := find_packaged(name):
        _check_packaged(name, packaged)
        return packaged
    published = find_published(name)
    return fetch(published) if published else None


def _check_packaged(name: str, path: pathlib.Path) -> None:
    """Raises an error if a file of the package is missing or changed."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, which comes with segjax: the installation is incomplete; install "
            "it again"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != PACKAGED[name.lower()]:
        raise CheckpointError(
            f"{path} has changed since segjax was released: its SHA-256 is another; install segjax "
            "again"
        )


def fetch(file: PublishedFile, folder: pathlib.Path | None = None) -> pathlib.Path:
    """Returns the path of a published file, downloading it if it is not in the cache.

    A download is complete or leaves nothing behind. It shows a progress bar, ends as soon as its
    size is another than the registry's, and is redirected to addresses of https only.

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
        _check_size(file, path, path.stat().st_size)
        with path.open("rb") as cached:
            _check_sha256(file, path, _copy(file, path, cached.read, lambda data: None))
        return path
    opener = urllib.request.build_opener(_SecureRedirects)
    try:
        with opener.open(file.url, timeout=60) as source, atomic_path(path) as partial:
            if (length := source.headers.get("Content-Length", "")).isdecimal():
                _check_size(file, file.url, int(length[:20]))
            with partial.open("wb") as target, _progress(file) as advance:
                write = lambda data: (target.write(data), advance(len(data)))
                sha256 = _copy(file, file.url, source.read, write)
            _check_sha256(file, file.url, sha256)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"{file.name} ({file.size}) is not in the cache and cannot be fetched: "
            f"{make_printable(str(error), 300) or type(error).__name__}. Fetch {file.url} where "
            f"there is a network and put it at {path}, or name your copy: segjax.load(model, path)"
        ) from error
    return path


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Handler that follows redirects to https alone."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Returns the request to follow, see `urllib`. Raises ConnectionError for other schemes."""
        if not newurl.lower().startswith("https://"):
            raise ConnectionError(
                f"the server redirects to {newurl[:200]!r}, and only https is followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(
    file: PublishedFile,
    source: object,
    read: Callable[[int], bytes],
    write: Callable[[bytes], object],
) -> str:
    """Copies a file's data and returns its SHA-256. Stops behind the file's size."""
    digest, size = hashlib.sha256(), 0
    while data := read(CHUNK):
        digest.update(data)
        size += len(data)
        if size > file.bytes + file.rounding:
            raise CheckpointError(
                f"{source} has more than {file.size}, its size: it is another file"
            )
        write(data)
    _check_size(file, source, size)
    return digest.hexdigest()


def _check_size(file: PublishedFile, source: object, size: int) -> None:
    if abs(size - file.bytes) > file.rounding:
        raise CheckpointError(
            f"{source} has {size:,} bytes, expected {file.size.removesuffix(' bytes')}: it is "
            "incomplete or another file"
        )


def _check_sha256(file: PublishedFile, source: object, sha256: str) -> None:
    if not sha256.startswith(file.sha256):
        begins = "" if len(file.sha256) == 64 else "a beginning of "
        raise CheckpointError(
            f"{source} is not the published file: its SHA-256 is {sha256}, expected "
            f"{begins}{file.sha256}. To use it anyway, name it: segjax.load(model, path)"
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
