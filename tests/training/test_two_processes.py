"""Two processes train like one, stop together, and any number of devices resumes the run."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from processes import launch

from segjax.locks import FolderInUseError, FolderLock
from segjax.training import workdir as workdirs
from segjax.training.interruption import Interrupted
from segjax.training.loop import train

from .toy import ToyTask, toy_config


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["loss"] for r in rows if "loss" in r}


def endless(**changes):
    changes = dict(mesh__fsdp=4, total_steps=200, optimizer__schedule="constant") | changes
    return toy_config(**changes)


def train_until_interrupted(workdir, signum):
    """Trains in each process. Process 1 receives a signal at its sixth batch."""
    rank = jax.process_index()
    unread = lambda number: pytest.fail("a batch was read")
    with pytest.raises(
        ValueError, match=r"12 does not divide over 4 devices \(2 processes x 2\) x 2.*: 8 or 16"
    ):
        train(ToyTask(on_batch=unread), endless(batch_size=12, microbatches=2), workdir)
    workdirs.LATE = 1.0
    with pytest.raises(ValueError, match="is another folder on process 1 than on process 0"):
        train(ToyTask(on_batch=unread), endless(), workdir / f"of_{rank}")
    if rank == 0:
        workdir.mkdir(exist_ok=True)
        lock = FolderLock(workdir)
    with pytest.raises(FolderInUseError, match="is in use by this process itself"):
        train(ToyTask(on_batch=unread), endless(), workdir)
    if rank == 0:
        lock.release()
    task = ToyTask(on_batch=lambda n: os.kill(os.getpid(), signum) if (rank, n) == (1, 5) else None)
    with pytest.raises(Interrupted) as stopped:
        train(task, endless(), workdir)
    return {"step": stopped.value.step, "status": stopped.value.code, "devices": jax.device_count()}


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_one_process_stops_both_and_one_process_resumes(tmp_path, signum):
    run = tmp_path / "run"
    first, second = launch(tmp_path, train_until_interrupted, 2, 2, workdir=run, signum=signum)
    assert first["devices"] == second["devices"] == 4 and first["step"] == second["step"]
    assert (first["status"], second["status"]) == (128 + signal.SIGTERM, 128 + signum)
    step = first["step"]
    assert (run / "checkpoints" / str(step)).is_dir() and not list(run.glob(".*"))

    together = losses(run)
    config = endless(total_steps=step + 2)
    train(ToyTask(), config, tmp_path / "alone")
    alone = losses(tmp_path / "alone")
    np.testing.assert_allclose(
        [together[i] for i in range(1, step + 1)], [alone[i] for i in range(1, step + 1)], 1e-5
    )
    train(ToyTask(), config, run)  # 8 devices of one process, after 2 x 2
    resumed = losses(run)
    np.testing.assert_allclose([resumed[i] for i in alone], list(alone.values()), 1e-5)
