"""A process of `segjax train` is killed: the same command resumes and repeats few steps."""

import json
import os
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from processes import child_of, free_port, start

from segjax.cli import guard

HEARTBEAT = 18  # seconds; with fewer, a busy machine would seem lost
pytestmark = pytest.mark.slow


class Training:
    """Tiny MAE, trained by one command in processes with one device each. `begin` runs it again."""

    def __init__(self, folder, processes, **fields):
        self.folder, self.processes, self.run = folder, processes, folder / "run"
        folder.mkdir()
        fields = {
            "log_every": 1,
            "batch_size": 8,
            "optimizer.base_lr": 0.0,
            "optimizer.peak_lr": 3e-3,
            **fields,
        }
        self.command = [
            sys.executable,
            "-m",
            "segjax",
            "train",
            "--config=experiments/mae/quickstart.py:debug",
        ]
        self.command += [
            f"--workdir={self.run}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ]
        if processes > 1:
            self.command += [f"--coordinator=localhost:{free_port()}", f"--processes={processes}"]
            self.command += [f"--heartbeat_timeout={HEARTBEAT}"]
        self.begun = 0

    def begin(self):
        self.begun += 1
        jax = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        which = lambda rank: [f"--process_id={rank}"] if self.processes > 1 else []
        self.logs = [self.folder / f"{self.begun}_{rank}.log" for rank in range(self.processes)]
        self.workers = [
            start([*self.command, *which(rank)], log, **jax) for rank, log in enumerate(self.logs)
        ]

    def ends(self):
        """Waits for all processes and returns their exit statuses."""
        try:
            return [worker.wait(timeout=280) for worker in self.workers]
        finally:
            for worker in self.workers:
                worker.kill()

    def logs_text(self):
        return [log.read_text() for log in self.logs]

    def rows(self):
        """Returns the rows of the log by step."""
        path, rows = self.run / "metrics.jsonl", {}
        for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
            if line.endswith("\n"):  # else it is being written
                row = json.loads(line)
                rows.setdefault(row["step"], {}).update(row)
        return rows

    def saved(self):
        """Returns the steps of complete checkpoints."""
        folder = self.run / "checkpoints"
        return (
            sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
            if folder.exists()
            else []
        )

    def wait_until(self, condition):
        until = time.monotonic() + 280
        while not condition():
            assert time.monotonic() < until and {worker.poll() for worker in self.workers} == {
                None
            }, self.logs_text()[0]
            time.sleep(0.01)


def test_after_one_of_four_is_killed_the_run_ends_like_an_undisturbed_one(
    tmp_path,
):
    steps, every = 24, 6
    undisturbed = Training(tmp_path / "alone", 1, total_steps=steps)
    undisturbed.begin()
    assert undisturbed.ends() == [0], undisturbed.logs_text()
    training = Training(tmp_path / "four", 4, **{"total_steps": steps, "checkpoint.every": every})
    training.begin()
    # Saves run in the background, so count the steps after a complete one.
    training.wait_until(
        lambda: training.saved() and list(training.rows())[-1] <= training.saved()[-1] + every // 2
    )
    os.kill(child_of(training.workers[2]), signal.SIGKILL)
    assert training.ends() == [guard.LOST, guard.LOST, 128 + signal.SIGKILL, guard.LOST], (
        training.logs_text()
    )
    assert all("process 2 is lost" in training.logs_text()[rank] for rank in (0, 1, 3))
    saved, done = training.saved()[-1], list(training.rows())[-1]
    assert every <= saved <= done < steps and saved % every == 0

    training.begin()
    assert training.ends() == [0] * 4, training.logs_text()
    assert all(f"resuming at step {saved}" in log for log in training.logs_text())
    assert done - saved <= every, "repeated steps"
    ours, theirs = training.rows(), undisturbed.rows()
    assert list(ours) == list(theirs) == list(range(1, steps + 1))
    assert theirs[steps]["loss"] < 0.97 * theirs[1]["loss"], (
        "the loss falls so much that a lost step would show"
    )
    for name in ("loss", "eval_loss"):
        found, expected = (
            [row[name] for row in rows.values() if name in row] for rows in (ours, theirs)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4, err_msg=name)


def test_one_of_two_is_killed_with_its_guard_and_later_both_are_interrupted(tmp_path):
    training = Training(tmp_path / "two", 2, **{"total_steps": 100_000, "checkpoint.every": 3})
    last = lambda: max(training.rows(), default=0)
    training.begin()
    training.wait_until(lambda: last() >= 5)
    training.workers[1].kill()
    assert (
        training.ends() == [guard.LOST, -signal.SIGKILL]
        and "process 1 is lost" in training.logs_text()[0]
    )
    saved = training.saved()[-1]
    assert saved % 3 == 0

    training.begin()
    training.wait_until(
        lambda: last() >= saved + 3 and f"resuming at step {saved}" in training.logs_text()[0]
    )
    training.workers[0].send_signal(signal.SIGTERM)
    assert training.ends() == [128 + signal.SIGTERM] * 2
    assert all(f"resuming at step {saved}" in log for log in training.logs_text())
    steps = [
        json.loads(line)["step"]
        for line in (training.run / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, steps[-1] + 1)), "lost steps are repeated and logged once"


def test_a_second_start_is_refused_and_a_deleted_folder_ends_the_run(tmp_path):
    training = Training(tmp_path / "one", 1, **{"total_steps": 100_000, "checkpoint.every": 3})
    training.begin()
    training.wait_until(training.saved)
    second = training.folder / "second.log"
    assert start(training.command, second).wait(timeout=120) == 2
    owner = training.workers[0].pid
    assert f"segjax train: {training.run} is in use by process {owner} on " in second.read_text()

    training.workers[0].kill()
    training.ends()
    saved = training.saved()[-1]
    training.begin()
    training.wait_until(lambda: training.saved()[-1] > saved)
    assert f"resuming at step {saved}" in training.logs_text()[0]
    shutil.rmtree(training.run, ignore_errors=True)
    assert training.ends() == [2]
    (log,) = training.logs_text()
    assert f"segjax train: {training.run} was deleted while" in log and "Traceback" not in log
