"""Reading MATLAB files of others in a child process.

SciPy's reader can crash the process, ask for gigabytes or run for minutes when a file is damaged.
A child with limits does so in its place, and costs one file.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import select
import subprocess
import sys
import time
from typing import Any

import numpy as np

from segjax.data.sources.raw import UnusableError

# Region maps of one image, in bytes. BSDS500's take 10 MB at most.
_MAX_BYTES = 2**28
_CHILD = pathlib.Path(__file__).with_name("mat_child.py")


class MatReader:
    """Reader of maps of annotators in MATLAB files. One child reads many files.

    Use it with `with`. The child starts with the first file, and again after a file has ended it.

    Args:
      seconds: time limit of each file.
    """

    def __init__(self, seconds: float = 20.0):
        self._seconds = seconds
        self._child: subprocess.Popen | None = None

    def __enter__(self) -> "MatReader":
        return self

    def __exit__(self, *_: Any) -> None:
        self._end()

    def read(self, path: pathlib.Path, field: str = "Segmentation") -> list[np.ndarray]:
        """Reads the maps of all annotators.

        Args:
          path: of the file.
          field: "Segmentation" (regions) or "Boundaries" (1 on a boundary).

        Returns:
          One uint16 or int32 [H, W] per annotator.

        Raises:
          UnusableError: the file has other content, or reading it crashes or takes too much time
            or memory.
        """
        try:
            return self._ask(path, field)
        except UnusableError:
            raise
        # A child that has ended closes its pipes, or leaves half an answer.
        except (OSError, ValueError, LookupError, TypeError, EOFError) as error:
            self._end()
            raise UnusableError(
                "ground truth file cannot be read safely", f"{path} ({error})"
            ) from error

    def _ask(self, path: pathlib.Path, field: str) -> list[np.ndarray]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Threads would reserve much of the memory that the child may use.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
            # Fewer and larger parts, where the system allows it
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(self._child.stdout, fcntl.F_SETPIPE_SZ, 2**20)
        deadline = time.monotonic() + self._seconds
        self._child.stdin.write(json.dumps([str(path), field]).encode() + b"\n")
        self._child.stdin.flush()
        answer = json.loads(self._receive(None, deadline))
        if "error" in answer:
            raise UnusableError("ground truth file is not BSDS500's", f"{path} ({answer['error']})")
        kinds = {"uint16": np.uint16, "int32": np.int32}
        maps = [(np.dtype(kinds[name]), shape) for name, *shape in answer["maps"]]
        sizes = [dtype.itemsize * math.prod(shape) for dtype, shape in maps]
        if sum(sizes) > _MAX_BYTES:
            raise ValueError(f"its maps have {sum(sizes)} bytes")
        return [
            np.frombuffer(self._receive(size, deadline), dtype).reshape(shape)
            for size, (dtype, shape) in zip(sizes, maps, strict=True)
        ]

    def _receive(self, size: int | None, deadline: float) -> bytearray:
        """Returns the next `size` bytes of the child, or its next line."""
        parts, missing = bytearray(), size
        stream = self._child.stdout.fileno()
        while missing is None or missing > 0:
            if not select.select([stream], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"it takes more than {self._seconds:g} s")
            # A line is read byte by byte: behind it follow the maps.
            part = os.read(stream, 1 if missing is None else min(missing, 2**20))
            if not part:
                raise EOFError("reading it ended the process")
            parts += part
            if missing is None and part == b"\n":
                break
            missing = None if missing is None else missing - len(part)
        return parts

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            for stream in (self._child.stdin, self._child.stdout):
                # Unsent bytes cannot be flushed to a child that has ended.
                with contextlib.suppress(OSError):
                    stream.close()
            self._child.wait()
            self._child = None
