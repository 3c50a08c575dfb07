"""Claims on pieces of work in a shared folder, so that several processes never do one twice."""

import contextlib
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Iterator

HEARTBEAT = 20.0  # seconds between two signs of life
STALE = 600.0  # seconds without one, after which the work is given to another process


@contextlib.contextmanager
def claim(path: pathlib.Path, *, stale: float = STALE) -> Iterator[bool]:
    """Claims a piece of work, and yields False if another process has it.

    A claim is a folder, which exactly one process can make, on network file systems too. Its time
    of modification is renewed while the work goes on. A claim of a process that was killed is taken
    over when it is stale.

    Args:
      path: of the claim.
      stale: seconds without a sign of life, after which a claim is taken over.
    """
    if not _take(path, stale):
        yield False
        return
    done = threading.Event()
    thread = threading.Thread(target=_renew, args=(path, done), daemon=True)
    thread.start()
    try:
        yield True
    finally:
        done.set()
        thread.join()
        shutil.rmtree(path, ignore_errors=True)


def _take(path: pathlib.Path, stale: float) -> bool:
    """Makes the folder of a claim. Returns False if a live process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
        return True
    except FileExistsError:
        pass
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False  # given back meanwhile; the work is done
    if age < stale:
        return False
    # Of several processes that find the claim stale, one can rename it
    old = path.with_name(f"{path.name}.{os.getpid()}.stale")
    try:
        path.rename(old)
    except OSError:
        return False
    shutil.rmtree(old, ignore_errors=True)
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _renew(path: pathlib.Path, done: threading.Event) -> None:
    """Renews the time of a claim until the work is done."""
    while not done.wait(HEARTBEAT):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
