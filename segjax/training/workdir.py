"""The folder of a run: shared by all processes, with the resolved config of the run in it."""

import contextlib
import itertools
import json
import logging
import pathlib
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from segjax.files import read_json_object, write_json
from segjax.locks import FolderInUseError, FolderLock
from segjax.messages import make_printable
from segjax.training.defaults import flatten_config
from segjax.training.interruption import meet_processes, share_text
from segjax.weights.run_meta import list_steps, read_meta

logger = logging.getLogger(__name__)

_MOST_NAMED = 5  # changed settings in a message, at most

CompleteConfig = Callable[[Mapping[str, Any]], ml_collections.ConfigDict]

_LOCK_WAIT = 120.0  # seconds that processes wait for process 0 to take the lock
_numbers = itertools.count()  # meetings of processes need names of their own

LATE = 30.0  # seconds after which a network file system surely shows a new file on every host

# Settings about duration, logging, devices, loading and evaluation: with other values the run is
# still the same experiment. A schedule that spans total_steps is stretched if total_steps changes,
# and microbatches change which prompts are sampled. Both are logged.
MAY_CHANGE = (
    r"total_steps",
    r"log_every",
    r"eval_every",
    r"profile_steps",
    r"peak_tflops",
    r"microbatches",
    r"checkpoint\..*",
    r"mesh\..*",
    r"eval\..*",
    r"data\.(eval_split|workers|threads|cache_mb|max_broken)",
    r"data\.(embeddings|text)\.folder",
)


def open_workdir(workdir: str | pathlib.Path) -> pathlib.Path:
    """Makes the folder of a run and returns its absolute path. Every process must call it.

    Args:
      workdir: Path of the folder. It need not exist.

    Raises:
      ValueError: On all processes alike, for an address such as gs://bucket/run, or if processes
        see different folders. Each would resume from its own files and write a part of a
        checkpoint that nobody can read.
    """
    if re.match(r"[A-Za-z][\w+.-]+:/", str(workdir)):
        raise ValueError(
            f"workdir {str(workdir)!r} is an address; expected a folder. Mount the bucket on every "
            "host (for Google Cloud: Cloud Storage FUSE) or use a shared file system, and give the "
            "path, for example /mnt/runs/mae"
        )
    path = pathlib.Path(workdir).absolute()
    path.mkdir(parents=True, exist_ok=True)
    if jax.process_count() > 1 and (apart := _find_processes_without(path)):
        raise ValueError(
            f"workdir {path} is another folder on process {', '.join(map(str, apart))} than on "
            "process 0; expected one folder on storage that all hosts share"
        )
    return path


def _find_processes_without(path: pathlib.Path) -> list[int]:
    """Returns the processes that do not see a file which process 0 writes into the folder."""
    # A random name, so that no other run can have written the same file.
    number = multihost_utils.broadcast_one_to_all(np.uint32(secrets.randbits(32)))
    marker = path / f".seen_by_all_{int(number):08x}"
    if jax.process_index() == 0:
        marker.touch()
    multihost_utils.sync_global_devices("the marker is written")
    # Network file systems show new files late
    until = time.monotonic() + LATE
    while not (visible := marker.exists()) and time.monotonic() < until:
        time.sleep(0.2)
    everywhere = np.atleast_1d(multihost_utils.process_allgather(np.uint8(visible)))
    if jax.process_index() == 0:
        marker.unlink(missing_ok=True)
    return np.flatnonzero(everywhere == 0).tolist()


def lock_workdir(workdir: pathlib.Path) -> FolderLock | contextlib.nullcontext:
    """Locks the folder of a run for all its processes. Every process must call it.

    Returns:
      The lock in process 0, which is to release it. A context that does nothing in the others.

    Raises:
      FolderInUseError: On all processes alike, if another run uses the folder.
      OSError: The folder cannot be written to.
    """
    if jax.process_count() == 1:
        return FolderLock(workdir)
    lock, problem = contextlib.nullcontext(), ""
    if jax.process_index() == 0:
        try:
            lock = FolderLock(workdir)
        except OSError as error:
            problem = str(error)
    # The lock of another machine takes longer than a collective operation waits
    meet_processes(f"segjax: lock {next(_numbers)}", _LOCK_WAIT)
    if problem := share_text(problem):
        raise FolderInUseError(problem)
    return lock


def to_plain_dict(config: ml_collections.ConfigDict) -> dict:
    """Returns the config as JSON would give it back: plain dicts, and lists for tuples."""
    return json.loads(config.to_json())


def record_config(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    complete_config: CompleteConfig,
    *,
    resuming: bool,
) -> None:
    """Writes workdir/config.json. When resuming, first compares the config with the one there.

    Both configs are completed before they are compared. A setting that did not exist when the run
    began, or that was not written out, counts as its default.

    Args:
      config: Config of the run.
      workdir: Folder of the run.
      complete_config: `Task.complete_config`, adds the defaults of missing settings.
      resuming: Whether the folder holds checkpoints to resume from.

    Raises:
      ValueError: Names each key whose change would make the resumed run another experiment. Other
        changes are logged.
    """
    new = to_plain_dict(config)
    complete = lambda settings: flatten_config(to_plain_dict(complete_config(settings)))
    if resuming and (old := _read_begun_config(workdir, complete)) is not None:
        _check_changes(config, workdir, old, complete(new))
    if jax.process_index() == 0:
        write_json(workdir / "config.json", new)


def _read_begun_config(
    workdir: pathlib.Path, complete: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any] | None:
    """Returns the config that a run began with, None if nothing tells it.

    It is that of config.json. If that file is missing or damaged, which a warning tells, the
    newest undamaged checkpoint holds a copy.

    Raises:
      ValueError: config.json is damaged and there is no copy.
    """
    path = workdir / "config.json"
    try:
        settings = read_json_object(path, "delete it to go on without comparing the configs")
        try:
            return complete(settings)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            damage = ValueError(f"{path} is damaged: {error}; delete it to go on without comparing")
    except FileNotFoundError:
        damage = None
    except ValueError as error:
        damage = error
    for step in reversed(list_steps(workdir / "checkpoints")):
        try:
            config = complete(read_meta(workdir / "checkpoints", step)["config"])
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            continue  # `Checkpoints.restore` tells why
        logger.warning(
            "%s is %s; the copy in checkpoint %d is used",
            *(path, "damaged" if damage else "missing", step),
        )
        return config
    if damage:
        raise damage
    return None


def _check_changes(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
) -> None:
    """Raises ValueError for changes that a resumed run may not make, and logs the others."""
    absent = "(absent)"
    changed = {key for key in {*old, *new} if old.get(key, absent) != new.get(key, absent)}
    allowed = re.compile("|".join(f"(?:{p})" for p in (*MAY_CHANGE, *config.checkpoint.may_change)))

    def describe(keys: Collection[str]) -> str:
        show = lambda values, key: make_printable(repr(values.get(key, absent)), 100)
        rows = [f"{key}: {show(old, key)} -> {show(new, key)}" for key in keys]
        more = [f"and {len(rows) - _MOST_NAMED} others"] if len(rows) > _MOST_NAMED else []
        return make_printable("; ".join(sorted(rows)[:_MOST_NAMED] + more))

    if barred := {key for key in changed if not allowed.fullmatch(key)}:
        raise ValueError(
            f"{workdir} holds a run with another config ({describe(barred)}). Use another workdir, "
            "restore these values, or allow the change by naming the keys in "
            "config.checkpoint.may_change (regexes)"
        )
    if changed:
        logger.warning("resuming %s with a changed config: %s", workdir, describe(changed))
