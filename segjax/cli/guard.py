"""Runs one process of several as a child, and says in one line why it ended when jax has ended it.

When a process is lost, jax aborts the others from within, with a page of messages that names the lost one for whoever
knows how to read it; nothing of ours can run in there any more. From outside it can be said plainly, the exit status
can be one that a launcher knows to start again, and worker processes that the child leaves behind can be ended.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

LOST = 75  # exit status of a process that jax ended because of another; "try again later" among the sysexits
_GUARDED = "SEGJAX_GUARDED"
_REMEMBERED = 20_000  # characters of the child's last words
_PATIENCE = (
    5.0  # seconds to read what a dead child has left in the pipe, which its workers may hold open
)


def needed() -> bool:
    """Whether this process is to be the guard; False in the child."""
    return _GUARDED not in os.environ


def guard(
    command: Sequence[str], *, coordinator: str | None, heartbeat_timeout: int, join_timeout: int
) -> int:
    """Runs a command as a child and returns its exit status, or LOST when jax ended it because of another process.

    SIGTERM and SIGINT are passed on; standard error is copied. A child that calls `end_with_guard` ends when the guard
    does.
    """
    alive, held = os.pipe()  # closes when the guard ends, however it ends
    child = subprocess.Popen(
        command,
        env={**os.environ, _GUARDED: str(alive)},
        stderr=subprocess.PIPE,
        pass_fds=(alive,),
        start_new_session=True,  # the terminal's Ctrl-C comes to the guard, and to no worker process
    )
    os.close(alive)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda signum, _: child.send_signal(signum))
    words = bytearray()
    reader = threading.Thread(target=_copy, args=(child.stderr, words), daemon=True)
    reader.start()
    status = child.wait()
    reader.join(_PATIENCE)
    _end_workers(child.pid)
    os.close(held)
    if status == -signal.SIGABRT:
        why = reason(words.decode(errors="replace"), coordinator, heartbeat_timeout, join_timeout)
        print(f"segjax train: {why}", file=sys.stderr, flush=True)
        return LOST
    return status if status >= 0 else 128 - status


def end_with_guard() -> None:
    """In the child: from now on this process ends when its guard does, instead of keeping devices that nobody sees."""
    if (held := os.environ.get(_GUARDED, "")).isdecimal():

        def wait() -> None:
            os.read(int(held), 1)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait, daemon=True).start()


def reason(words: str, coordinator: str | None, heartbeat_timeout: int, join_timeout: int) -> str:
    """What jax's last words mean, in a sentence or two."""
    if "Terminating process because the JAX distributed service" not in words:
        return "the process was aborted; what is above says why"

    def processes(pattern: str) -> str:
        numbers = re.findall(r"\d+", found.group(1)) if (found := re.search(pattern, words)) else []
        return f"process{'es' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else ""

    again = "The same command, started again on all processes, goes on from the newest checkpoint"
    listed = r"((?:\d+[,\s]*)+)"
    if "RegisterTask" in words:
        who = (
            processes(rf"timed out task names:\s*{listed}") or "process 0"
        )  # which would have named the others
        return f"{who} did not come within --join_timeout={join_timeout} s. All are started with the same command"
    if who := processes(rf"stopped sending heartbeats\):\s*{listed}") or processes(
        r"Task (\d+) heartbeat timeout"
    ):
        are = "are" if "," in who else "is"
        return (
            f"{who} {are} lost: no heartbeat for --heartbeat_timeout={heartbeat_timeout} s. This process cannot go on "
            f"without and has ended. The log there, or the scheduler, may say why. {again}"
        )
    if who := processes(r"(\d+) unexpectedly tried to connect"):
        return f"{who} was lost and is there anew. This process has ended, so that all begin together. {again}"
    if who := processes(r"first task at the barrier: (\d+)"):
        return f"{who} ended while others were at work; the log there says why. {again}"
    where = f" at {coordinator}" if coordinator else ""
    return (
        f"process 0 is lost: it coordinates the others{where}, and does not answer. This process cannot go on without "
        f"and has ended. The log of process 0, or the scheduler, may say why. {again}"
    )


def _copy(pipe, words: bytearray) -> None:
    while chunk := pipe.read1():
        sys.stderr.buffer.write(chunk)
        sys.stderr.flush()
        words += chunk
        del words[:-_REMEMBERED]


def _end_workers(session: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
