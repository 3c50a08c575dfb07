"""Runs a reader on damaged inputs in forked children, and finds out how each case ended.

One child reads many inputs. If it dies or takes too long, the input that it was reading is to
blame, and another child goes on behind it.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fuzzing.mutators import mutate_tree
from fuzzing.verdicts import (
    MOST_LINES,
    OK,
    REFUSED,
    Verdict,
    WrongValueError,
    judge_error,
)
from fuzzing.watch import (
    MEMORY_LIMIT,
    Watch,
    limit_memory,
    list_known_modules,
    read_resident_memory,
)

TIME_LIMIT = 10.0  # seconds of processor time for one input
WALL_LIMIT = 40.0  # seconds, also for sleeping readers and on a busy machine
STARTING = 240.0  # seconds to start a child, which may compile
_TICKS = os.sysconf("SC_CLK_TCK")
Tree = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader under test.

    Attributes:
      name: Name on the command line.
      make_seeds: Writes valid inputs, each a subfolder of the given folder.
      read: Reads an input folder. Returns anything that tells what was read, or None.
      words: Names of arguments, of which a clear error may speak instead of a file.
      tokens: Texts that mean something to the reader.
      exact: A damaged input must be read as the valid one, or refused.
      allowed: "process" or "network", if the reader needs them.
    """

    name: str
    make_seeds: Callable[[pathlib.Path], None]
    read: Callable[[pathlib.Path], Any]
    words: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    exact: bool = False
    allowed: tuple[str, ...] = ()


class Fuzzer:
    """Runs the cases of one reader.

    A case is a number: with the same seed and the same valid inputs it is the same damaged input.

    Args:
      reader: The reader.
      seed: Seed of the mutations.
      scratch: Empty folder for everything that the reader reads and writes.
      mutate: Changes an input, called as mutate(rng, tree, tokens).
    """

    def __init__(
        self, reader: Reader, seed: int, scratch: pathlib.Path, mutate: Callable = mutate_tree
    ) -> None:
        self.reader, self.seed, self.scratch = reader, seed, scratch.absolute()
        self.mutate = mutate
        list_known_modules()  # once, before children are forked
        for name in ("seeds", "work/case", "work/beside"):
            (self.scratch / name).mkdir(parents=True)
        self.input = self.scratch / "work" / "case" / "input"
        # In a child, because some seeds need threads, and a process with threads cannot be forked.
        _wait(_fork(lambda: reader.make_seeds(self.scratch / "seeds")), f"seeds of {reader.name}")
        folders = sorted(path for path in (self.scratch / "seeds").iterdir())
        self.seeds = [read_tree(folder) for folder in folders]

    def make_case(self, case: int) -> tuple[int, Tree]:
        """Returns the index of the seed, and the damaged input."""
        rng = random.Random(f"{self.reader.name} {self.seed} {case}")
        index = rng.randrange(len(self.seeds))
        return index, self.mutate(rng, self.seeds[index], self.reader.tokens)

    def run(self, cases: Sequence[int], tree: Tree | None = None) -> Iterator[Verdict]:
        """Yields the verdict of each case.

        Args:
          cases: Numbers of the cases.
          tree: The damaged input of a single case. None makes it from the number.
        """
        todo = list(cases)
        while todo:
            reading, writing = os.pipe()
            child = _fork(lambda: self._serve(todo, tree, writing), reading)  # noqa: B023
            os.close(writing)
            try:
                for verdict in _watch_child(child, reading, todo):
                    todo = todo[todo.index(verdict.case) + 1 :]
                    yield verdict
            finally:
                os.close(reading)

    # In the child

    def _serve(self, cases: Sequence[int], tree: Tree | None, pipe: int) -> None:
        """Reads one input after another, and writes a verdict each."""
        work, log = self.scratch / "work", self.scratch / "log"
        os.chdir(work / "beside")
        (work / "beside" / "fuzz_canary.py").write_text("def run(*_): pass\n")
        sys.path.insert(0, os.getcwd())
        sys.dont_write_bytecode = True
        os.environ["TMPDIR"] = str(work / "case")
        watch, stderr = Watch(work / "case", self.reader.allowed), os.dup(2)
        output = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(output, 1), os.dup2(output, 2)
        try:
            expected = [self._read_valid(seed) for seed in self.seeds]
        except BaseException:
            os.dup2(stderr, 2)  # shows why
            raise
        os.write(pipe, b"ready\n")
        for case in cases:
            os.truncate(log, 0)
            index, damaged = self.make_case(case) if tree is None else (0, tree)
            write_tree(self.input, damaged)
            verdict = self._read_damaged(watch, case, damaged, expected[index])
            if not verdict.is_finding and (lines := log.read_bytes().count(b"\n")) > MOST_LINES:
                verdict.kind, verdict.detail = "unclear", f"prints {lines} lines"
            os.write(pipe, verdict.to_line())

    def _read_valid(self, tree: Tree) -> Any:
        """Reads a valid input. One that shows a refusal returns None."""
        write_tree(self.input, tree)
        try:
            return self.reader.read(self.input)
        except Exception as error:
            if judge_error(error, self._list_names(tree))[0] == REFUSED:
                return None
            raise

    def _list_names(self, tree: Tree) -> list[str]:
        """Returns the names of which a clear error contains one."""
        files = (path.split("/")[-1] for path in tree)
        return sorted({self.input.name, *self.reader.words, *files})

    def _read_damaged(self, watch: Watch, case: int, tree: Tree, expected: Any) -> Verdict:
        """Reads the input and judges the result."""
        beside = sorted(os.listdir(self.scratch / "work"))
        before, started = read_resident_memory("VmRSS"), time.perf_counter()
        limit_memory()
        try:
            value, kind, detail = watch.run(self.reader.read, self.input), OK, ""
            if self.reader.exact and value != expected:
                raise WrongValueError("read as something else, without an error")
        except BaseException as error:  # noqa: BLE001 - also SystemExit and panics of Rust
            kind, detail = judge_error(error, self._list_names(tree))
        seconds, memory = time.perf_counter() - started, read_resident_memory() - before
        if watch.seen:
            kind, _, detail = watch.seen[0].partition(": ")
        elif memory > MEMORY_LIMIT:
            kind, detail = "memory", f"{memory / 2**30:.1f} GiB"
        elif sorted(os.listdir(self.scratch / "work")) != beside:
            kind, detail = "write", f"{set(os.listdir(self.scratch / 'work')) - set(beside)}"
        return Verdict(case, kind, detail, round(seconds, 4), max(memory, 0))


def read_tree(folder: pathlib.Path) -> Tree:
    """Returns the content of the files of a folder by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_tree(folder: pathlib.Path, tree: Tree) -> None:
    """Writes files into a folder and removes everything else in its parent."""
    shutil.rmtree(folder.parent, ignore_errors=True)
    for path, data in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


# Processes


def _fork(function: Callable[[], None], *close: int) -> int:
    """Calls a function in a child, in a session of its own, and returns the child's id."""
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        for descriptor in close:
            os.close(descriptor)
        function()
        status = 0
    except BaseException:  # noqa: BLE001 - the child must not return into the parent's code
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _wait(child: int, name: str) -> None:
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"{name} cannot be made; the messages above tell why")


def _watch_child(child: int, pipe: int, cases: Sequence[int]) -> Iterator[Verdict]:
    """Yields a child's verdicts, and one more if it dies or takes too long."""
    waiting, buffer, ready = list(cases), b"", False
    try:
        begun, used = time.monotonic(), _read_cpu_seconds(child)
        while waiting:
            if select.select([pipe], [], [], 0.5)[0]:
                data = os.read(pipe, 1 << 16)
                *lines, buffer = (buffer + data).split(b"\n")
                if lines:
                    begun, used = time.monotonic(), _read_cpu_seconds(child)
                for line in lines:
                    if line == b"ready":
                        ready = True
                        continue
                    yield (verdict := Verdict.from_line(line))
                    waiting.remove(verdict.case)
                if not data:
                    yield _explain_death(child, waiting[0], ready)
                    return
            elif not ready and time.monotonic() - begun > STARTING:
                raise RuntimeError(f"the valid inputs are not read within {STARTING:.0f} s")
            elif ready and (
                _read_cpu_seconds(child) - used > TIME_LIMIT
                or time.monotonic() - begun > WALL_LIMIT
            ):
                yield Verdict(waiting[0], "hang", "", round(time.monotonic() - begun, 1))
                return
    finally:
        # The child and everything that it started
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _explain_death(child: int, case: int, ready: bool) -> Verdict:
    status = os.waitpid(child, 0)[1]
    if not ready:
        raise RuntimeError("a valid input is not read; the messages above tell why")
    if os.WIFSIGNALED(status):
        return Verdict(case, "crash", signal.Signals(os.WTERMSIG(status)).name)
    return Verdict(case, "crash", f"exit status {os.waitstatus_to_exitcode(status)}")


def _read_cpu_seconds(child: int) -> float:
    """Returns the processor time of a child and of its ended children."""
    try:
        fields = pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS
