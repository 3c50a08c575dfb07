"""A process is lost: the others end in time, with a status for the launcher and a message."""

import os
import signal
import sys
import time

import pytest
from processes import TESTS, child_of, free_port, start, statuses

from segjax.cli import guard

HEARTBEAT = 6  # seconds; with fewer, a busy machine would seem lost


class Group:
    """Processes of one run, with their logs in a folder."""

    def __init__(self, folder, count, absent=(), failing=()):
        self.folder, self.port = folder, free_port()
        folder.mkdir()
        self.members = {
            r: self._start(r, count, r in failing) for r in range(count) if r not in absent
        }

    def _start(self, rank, count, fails):
        flags = [
            f"--coordinator=localhost:{self.port}",
            f"--processes={count}",
            f"--process_id={rank}",
        ]
        flags += [
            f"--heartbeat_timeout={HEARTBEAT}",
            "--join_timeout=60",
            f"--met={self.folder / f'{rank}.met'}",
        ]
        flags += ["--fails"] * fails
        return start([sys.executable, TESTS / "member.py", *flags], self.folder / f"{rank}.log")

    def meet(self):
        until = time.monotonic() + 120
        while not all((self.folder / f"{rank}.met").exists() for rank in self.members):
            assert time.monotonic() < until, self.log(0)
            time.sleep(0.05)

    def ends(self, rank):
        """Waits for a process and returns (status, seconds, last line of its log)."""
        began = time.monotonic()
        (status,) = statuses([self.members[rank]], 120)
        return status, time.monotonic() - began, self.log(rank).splitlines()[-1]

    def log(self, rank):
        return (self.folder / f"{rank}.log").read_text()


def test_a_killed_worker_and_a_killed_coordinator_are_named(tmp_path):
    worker, coordinator = Group(tmp_path / "worker", 2), Group(tmp_path / "coordinator", 2)
    worker.meet(), coordinator.meet()
    (
        worker.members[1].kill(),
        coordinator.members[0].kill(),
    )  # the guards, whose children end with them

    status, seconds, last = coordinator.ends(1)
    assert (status, seconds < HEARTBEAT + 5) == (guard.LOST, True)
    assert f"process 0 is lost: it coordinates the others at localhost:{coordinator.port}" in last

    status, seconds, last = worker.ends(0)
    assert (status, seconds < HEARTBEAT + 5) == (guard.LOST, True)
    assert last.startswith(
        f"segjax train: process 1 is lost: no heartbeat for --heartbeat_timeout={HEARTBEAT} s."
    )
    assert "resumes from the newest checkpoint" in last


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_process_is_lost(tmp_path, stopped):
    group = Group(tmp_path / "group", 2)
    group.meet()
    child = child_of(group.members[stopped])
    os.kill(child, signal.SIGSTOP)
    status, seconds, last = group.ends(1 - stopped)
    assert (status, seconds < HEARTBEAT + 5) == (
        guard.LOST,
        True,
    ) and f"process {stopped} is lost" in last
    os.kill(child, signal.SIGCONT)
    assert group.ends(stopped)[0] == guard.LOST, "it notices that the others have ended"


@pytest.mark.slow
def test_all_survivors_name_the_lost_one(tmp_path):
    group = Group(tmp_path / "group", 3)
    group.meet()
    os.kill(child_of(group.members[2]), signal.SIGKILL)  # out of memory, say: the guard lives on
    assert group.ends(2)[0] == 128 + signal.SIGKILL
    for rank in (0, 1):
        status, _, last = group.ends(rank)
        assert status == guard.LOST and "process 2 is lost" in last


@pytest.mark.slow
def test_a_failing_process_does_not_keep_the_others_waiting(tmp_path):
    group = Group(tmp_path / "group", 2, failing=[1])
    group.meet()
    status, seconds, _ = group.ends(1)
    assert status == 2 and seconds < 20 and "OSError: no space left on device" in group.log(1)
    status, _, last = group.ends(0)
    assert status == guard.LOST and "process 1 is lost" in last


@pytest.mark.slow
@pytest.mark.parametrize("absent", [0, 2])
def test_a_missing_process_is_named(tmp_path, absent):
    group = Group(tmp_path / "group", 3, absent=[absent])
    for rank in {0, 1, 2} - {absent}:
        status, _, last = group.ends(rank)
        assert status == guard.LOST
        assert last.startswith(
            f"segjax train: process {absent} did not join within --join_timeout=60 s"
        )


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_for_the_others(tmp_path):
    group = Group(tmp_path / "group", 2, absent=[1])
    while "waiting for all processes" not in group.log(0):
        time.sleep(0.1)
    time.sleep(1)
    group.members[0].send_signal(signal.SIGINT)
    status, seconds, _ = group.ends(0)
    assert status == 128 + signal.SIGINT and seconds < 5


FATAL = (
    "F1125 client.h:80] Terminating process because the JAX distributed service detected fatal "
    "errors. "
)


@pytest.mark.parametrize(
    "output, explanation",
    [  # messages of jax 0.10.2
        (
            "The following tasks are unhealthy (stopped sending heartbeats):\n3\n12\nThe tasks",
            "processes 3, 12 are lost",
        ),
        ("INTERNAL: Barrier failed: UNAVAILABLE: Task 3 heartbeat timeout.", "process 3 is lost"),
        (
            "ABORTED: 1 unexpectedly tried to connect with a different incarnation.",
            "process 1 was lost and has restarted",
        ),
        (
            "DEADLINE_EXCEEDED\n\nRPC: /xla.coordination.CoordinationService/Heartbeat",
            "process 0 is lost",
        ),
        (
            "UNAVAILABLE: Socket closed\nRPC: /xla.coordination.CoordinationService/PollForError",
            "process 0 is lost",
        ),
        (
            "# 2/4.\nSome timed out task names:\n1\n3\n\nRPC: /xla.C/RegisterTask",
            "processes 1, 3 did not join within",
        ),
        (
            "DEADLINE_EXCEEDED\n\nRPC: /xla.coordination.CoordinationService/RegisterTask",
            "process 0 did not join",
        ),
        (
            "Shutdown barrier: The first task at the barrier: 2. Some timed out task names:\n0\n",
            "process 2 ended",
        ),
    ],
)
def test_messages_of_jax_are_explained(output, explanation):
    assert explanation in guard.explain_abort(FATAL + output, "host0:1234", 100, 300)


def test_an_abort_of_another_kind_has_no_explanation():
    assert guard.explain_abort("munmap_chunk(): invalid pointer", None, 100, 300).endswith(
        "the messages above tell why"
    )
