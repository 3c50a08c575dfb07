"""What a reader does besides reading: processes, foreign code, writes, network, memory."""

import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import resource
import sys
from collections.abc import Callable

GIB = 2**30
# A reader may take so much beside what the process had before, in bytes of resident memory.
MEMORY_LIMIT = 2 * GIB
# Address space that new threads reserve without using it
_THREADS = GIB

_PROCESSES = {
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"),
    *("os.forkpty", "pty.spawn", "webbrowser.open", "os.startfile"),
}
_NETWORK = {
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.sendto",
    "urllib.Request",
}
_WRITES = {
    *("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
}
# Harmless modules of the standard library that nothing needs: a file that names them is obeyed.
CANARIES = {"this", "__hello__", "fuzz_canary"}


@functools.cache
def list_known_modules() -> frozenset[str]:
    """Returns the top-level modules of Python and of installed packages. Takes half a second."""
    packages = importlib.metadata.packages_distributions()
    return frozenset({*sys.stdlib_module_names, *packages, "segjax"} - CANARIES)


class ForbiddenError(Exception):
    """Error that stops a forbidden action, so that fuzzing does no harm."""


class Watch:
    """Audit hook that records and stops forbidden actions. It cannot be removed.

    Args:
      scratch: The only folder in which files may be written.
      allowed: Kinds of action that the reader is made for: "process" or "network".
    """

    def __init__(self, scratch: pathlib.Path, allowed: tuple[str, ...]) -> None:
        self.scratch, self.allowed = os.path.realpath(scratch), allowed
        self.active, self.seen = False, []
        self._known = list_known_modules()
        sys.addaudithook(self._hook)

    def run(self, function: Callable, *arguments: object) -> object:
        """Calls a function under watch."""
        self.seen, self.active = [], True
        try:
            return function(*arguments)
        finally:
            self.active = False

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.active:
            return
        self.active = False  # what follows raises events too
        try:
            action = self._find_fault(event, arguments)
        finally:
            self.active = True
        if action:
            self.seen.append(action)
            raise ForbiddenError(action)

    def _find_fault(self, event: str, arguments: tuple) -> str:
        """Returns a description of a forbidden action, or ""."""
        if event in _PROCESSES and "process" not in self.allowed:
            return f"process: {event} {arguments[:2]!r:.200}"
        if event in _NETWORK and "network" not in self.allowed:
            return f"network: {event} {arguments!r:.200}"
        if event == "urllib.Request" and not str(arguments[0]).lower().startswith("http"):
            return f"network: request of {arguments[0]}"
        if event in _NETWORK and "127.0.0.1" not in str(arguments):
            raise ConnectionRefusedError("no other machine is reached while fuzzing")
        if (event == "open" and self._is_write(arguments)) or event in _WRITES:
            place = _find_place(event, arguments)
            inside = f"{place}/".startswith((f"{self.scratch}/", "/dev/null/", "/proc/self/"))
            return "" if inside else f"write: {event} {place}"
        if event == "import" and self._is_foreign(arguments[0].split(".")[0]):
            return f"code: import of {arguments[0]}"
        if event == "pickle.find_class" and "process" not in self.allowed:
            return f"code: pickle names {arguments[0]}.{arguments[1]}"
        return ""

    def _is_foreign(self, module: str) -> bool:
        """Tells whether a module exists that neither Python nor an installed package brings."""
        return module not in self._known and importlib.util.find_spec(module) is not None

    def _is_write(self, arguments: tuple) -> bool:
        path, mode, flags = arguments
        if isinstance(path, int):
            return False
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
        return any(letter in (mode or "") for letter in "wax+") or bool((flags or 0) & writing)


def _find_place(event: str, arguments: tuple) -> str:
    """Returns the real path that an event writes to."""
    path = arguments[event in ("os.rename", "os.link", "shutil.move")]
    path = f"/proc/self/fd/{path}" if isinstance(path, int) else os.fsdecode(path)
    # Paths may be relative to an open folder.
    folder = arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
    if folder >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.realpath(path)


def limit_memory() -> None:
    """Limits the address space to what it is now and a few GiB, and begins a new peak."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT + _THREADS
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def read_resident_memory(field: str = "VmHWM") -> int:
    """Returns the peak of the resident memory since `limit_memory` in bytes, or "VmRSS", of now."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1]) * 1024
