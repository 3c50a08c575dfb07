"""The folder of a run, which every process of the run must see as the same folder."""

import pathlib
import re
import secrets
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

LATE = 30.0  # seconds after which a network file system surely shows a new file on every host


def open_workdir(workdir: str | pathlib.Path) -> pathlib.Path:
    """The folder's absolute path; the folder is made if it is not there. Every process must call it.

    Raises ValueError, on all processes alike, for an address such as gs://bucket/run, and for a folder that is not the
    same one for all: each would resume from what it alone sees, and write a part of a checkpoint that nobody can read.
    """
    if re.match(r"[A-Za-z][\w+.-]+:/", str(workdir)):
        raise ValueError(
            f"workdir {str(workdir)!r} is an address; expected a folder. Mount the bucket on every host (for Google "
            "Cloud: Cloud Storage FUSE) or use a shared file system, and give the path, for example /mnt/runs/mae"
        )
    path = pathlib.Path(workdir).absolute()
    path.mkdir(parents=True, exist_ok=True)
    if jax.process_count() > 1 and (apart := _processes_that_miss(path)):
        raise ValueError(
            f"workdir {path} is another folder on process {', '.join(map(str, apart))} than on process 0; expected one "
            "folder on storage that all hosts share"
        )
    return path


def _processes_that_miss(path: pathlib.Path) -> list[int]:
    """Process 0 puts down a file that nobody else can have made; who does not find it, looks elsewhere."""
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    sign = path / f".seen_by_all_{int(number):08x}"
    if jax.process_index() == 0:
        sign.touch()
    multihost_utils.sync_global_devices("the sign is there")
    until = time.monotonic() + LATE
    while not (found := sign.exists()) and time.monotonic() < until:
        time.sleep(0.2)
    everywhere = np.atleast_1d(multihost_utils.process_allgather(np.uint8(found)))
    if jax.process_index() == 0:
        sign.unlink(missing_ok=True)
    return np.flatnonzero(everywhere == 0).tolist()
