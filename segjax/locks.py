"""Lock of a folder, so that one process at a time writes to it.

The lock is a file that names its owner: host, process and start time. On one machine the kernel
tells whether the owner lives, so the lock of a killed process is taken over at once. For owners on
other machines, which may share the folder over a network, the owner renews the file's time. A lock
that is not renewed for a minute is taken over too.
"""

import fcntl
import json
import logging
import os
import pathlib
import socket
import threading
import time
from typing import Any

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
_RENEW = 10.0  # seconds between signs of life
_SILENCE = 60.0  # seconds without one after which an owner on another machine counts as gone

# By path. The kernel's lock is one of processes: it does not stop a second owner in this process,
# and closing any other handle of the file would release it.
_held: dict[pathlib.Path, "FolderLock"] = {}


class FolderInUseError(OSError):
    """Error of a folder that another process is writing to."""


class FolderLostError(OSError):
    """Error of a folder that was deleted or taken over while this process was writing to it."""


class FolderLock:
    """Lock of a folder, held from construction to `release`. A context manager.

    Example:
      with FolderLock("runs/quickstart") as lock:
          ...
          lock.check()  # before writing, in a long job
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        """Takes the lock.

        Args:
          folder: An existing folder.

        Raises:
          FolderInUseError: Another process holds the lock. The message tells which.
          OSError: The folder cannot be written to.
        """
        self.folder = pathlib.Path(folder).resolve()
        self.path = self.folder / LOCK_FILE
        self._released = threading.Event()
        if _held.setdefault(self.path, self) is not self:
            raise FolderInUseError(f"{self.folder} is in use by this process itself")
        try:
            self._file = self._take()
        except BaseException:
            del _held[self.path]
            raise
        threading.Thread(target=self._renew, name="folder lock", daemon=True).start()

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def check(self) -> None:
        """Raises FolderLostError if the folder or the lock are no longer this process's."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            raise FolderLostError(
                f"{self.folder} was deleted while this process was writing to it (its file "
                f"{LOCK_FILE} is gone); nothing more is written"
            ) from None
        owner = _parse(os.pread(self._file, 4096, 0))
        if not os.path.samestat(there, os.fstat(self._file)) or owner != _describe_self():
            raise FolderLostError(
                f"{self.folder} was taken over by {_name(owner)}, because this process gave no "
                f"sign of life for {_SILENCE:.0f} s"
            )

    def release(self) -> None:
        """Deletes the lock. Does nothing the second time."""
        if self._released.is_set():
            return
        self._released.set()
        try:
            self.check()
            self.path.unlink()
        except OSError:
            pass  # somebody else's, or gone
        os.close(self._file)
        del _held[self.path]

    def _take(self) -> int:
        """Takes the lock and returns the open file that holds it."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._wait_for_owner(file)
                if self._is_current(file):
                    os.ftruncate(file, 0)
                    os.pwrite(file, json.dumps(_describe_self()).encode(), 0)
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _is_current(self, file: int) -> bool:
        """Tells whether an open file is still the lock, and not one that was deleted since."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(file))
        except FileNotFoundError:
            return False

    def _wait_for_owner(self, file: int) -> None:
        """Returns if the lock is free, at once where the kernel knows, else after some silence.

        Raises:
          FolderInUseError: The owner lives.
        """
        is_locked = _lock(file)
        owner = _parse(os.pread(file, 4096, 0))
        if is_locked or (owner and owner["boot"] == _boot() and _is_alive(owner)):
            raise self._refuse(owner)
        if not owner:
            return
        if owner["boot"] == _boot():
            logger.info("%s, which used %s before, has ended", _name(owner), self.folder)
            return
        # The kernel knows nothing about processes of another machine
        logger.warning(
            "%s was used by %s; waiting %.0f s for a sign of life",
            *(self.folder, _name(owner), _SILENCE),
        )
        before, until = self._read_sign(), time.monotonic() + _SILENCE
        while time.monotonic() < until:
            time.sleep(min(1.0, _SILENCE / 10))
            if self._read_sign() != before:
                raise self._refuse(owner)
        # Closing what `_read_sign` opens has released the kernel's lock, before and after
        if _lock(file) or self._read_sign() != before:
            raise self._refuse(_parse(os.pread(file, 4096, 0)))
        _lock(file)

    def _read_sign(self) -> tuple[int, bytes] | None:
        """Returns a value that changes with every sign of life. Opens the file to see it anew."""
        try:
            with open(self.path, "rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns, file.read()
        except FileNotFoundError:
            return None

    def _refuse(self, owner: dict[str, Any]) -> FolderInUseError:
        known = owner and owner["boot"] == _boot()
        hint = "" if known else f", or delete {self.path} if you know that it is gone"
        return FolderInUseError(
            f"{self.folder} is in use by {_name(owner)}; wait until it ends, or choose another "
            f"folder{hint}"
        )

    def _renew(self) -> None:
        """Gives a sign of life from time to time."""
        while not self._released.wait(_RENEW):
            try:
                self.check()
                os.utime(self.path)
            except OSError:
                continue  # `check` tells the owner


def _lock(file: int) -> bool:
    """Asks the kernel for its lock of a file. Returns whether another process holds it."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        pass  # not every network file system has locks; the file's content decides alone
    return False


def _describe_self() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "start": _start_time(pid)}


def _boot() -> str:
    """Returns an identifier of this machine since it was started."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _start_time(pid: int) -> str | None:
    """Returns when a process started, in the kernel's ticks. None if there is no such process.

    A process id is used again after its process has ended. The start time tells the two apart.
    """
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except FileNotFoundError:
        if pathlib.Path("/proc/self").exists():
            return None
    try:  # no Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _is_alive(owner: dict[str, Any]) -> bool:
    start = _start_time(owner["pid"])
    return start is not None and start == owner["start"]


def _parse(content: bytes) -> dict[str, Any]:
    """Returns the owner that a lock names, {} if it is empty or damaged."""
    try:
        owner = json.loads(content)
        named = {name: owner[name] for name in ("host", "boot", "pid", "start")}
        return named if isinstance(named["pid"], int) else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner['pid']} on {owner['host']}" if owner else "another process"
