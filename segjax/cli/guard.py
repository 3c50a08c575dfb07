"""Runs one process of a distributed run as a child, and explains in one line why jax ended it.

If a process is lost, jax aborts the others from C++, with a page of messages that name the lost one
to experts only. No Python code runs after that. From outside, a guard can explain it plainly,
return an exit status on which a launcher restarts, and end worker processes that the child leaves
behind.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

LOST = 75  # exit status after another process was lost; "try again later" in sysexits.h
_GUARDED = "SEGJAX_GUARDED"
_REMEMBERED = 20_000  # characters of the child's standard error
# Seconds to read the rest of a dead child's pipe, which its workers may hold open
_PATIENCE = 5.0


def is_needed() -> bool:
    """Returns whether this process should become the guard. False in the child."""
    return _GUARDED not in os.environ


def guard(
    command: Sequence[str], *, coordinator: str | None, heartbeat_timeout: int, join_timeout: int
) -> int:
    """Runs a command as a child and returns its exit status.

    Passes SIGTERM and SIGINT on and copies standard error. A child that calls `end_with_guard` ends
    together with the guard.

    Args:
      command: Program and arguments.
      coordinator: Address of process 0, for the message, or None.
      heartbeat_timeout: Seconds after which jax regards a process as lost, for the message.
      join_timeout: Seconds that processes wait for each other at the start, for the message.

    Returns:
      The exit status, or LOST if jax ended the child because of another process.
    """
    # The pipe closes when the guard ends, however it ends.
    alive, held = os.pipe()
    child = subprocess.Popen(
        command,
        env={**os.environ, _GUARDED: str(alive)},
        stderr=subprocess.PIPE,
        pass_fds=(alive,),
        start_new_session=True,  # Ctrl-C in the terminal reaches the guard, and no worker process
    )
    os.close(alive)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda signum, _: child.send_signal(signum))

    # Copy standard error until the child ends
    recent = bytearray()
    reader = threading.Thread(target=_copy, args=(child.stderr, recent), daemon=True)
    reader.start()
    status = child.wait()
    reader.join(_PATIENCE)
    _end_workers(child.pid)
    os.close(held)

    if status == -signal.SIGABRT:
        output = recent.decode(errors="replace")
        cause = explain_abort(output, coordinator, heartbeat_timeout, join_timeout)
        print(f"segjax train: {cause}", file=sys.stderr, flush=True)
        return LOST
    return status if status >= 0 else 128 - status


def end_with_guard() -> None:
    """Ends this process, the child, as soon as its guard ends.

    Otherwise it would keep devices without anybody noticing.
    """
    if (held := os.environ.get(_GUARDED, "")).isdecimal():

        def wait() -> None:
            os.read(int(held), 1)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait, daemon=True).start()


def explain_abort(
    output: str, coordinator: str | None, heartbeat_timeout: int, join_timeout: int
) -> str:
    """Explains jax's last messages in a sentence or two.

    Args:
      output: End of the child's standard error.
      coordinator: Address of process 0, or None.
      heartbeat_timeout: Seconds after which jax regards a process as lost.
      join_timeout: Seconds that processes wait for each other at the start.
    """
    if "Terminating process because the JAX distributed service" not in output:
        return "the process was aborted; the messages above tell why"

    def find_processes(pattern: str) -> str:
        match = re.search(pattern, output)
        numbers = re.findall(r"\d+", match.group(1)) if match else []
        return f"process{'es' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else ""

    restart = "The same command, started again on all processes, resumes from the newest checkpoint"
    listed = r"((?:\d+[,\s]*)+)"

    # Not all processes joined
    if "RegisterTask" in output:
        # Process 0 would have named the others
        missing = find_processes(rf"timed out task names:\s*{listed}") or "process 0"
        return (
            f"{missing} did not join within --join_timeout={join_timeout} s. Start the same "
            "command on all processes"
        )

    # A process was lost later
    lost = find_processes(rf"stopped sending heartbeats\):\s*{listed}")
    if lost := lost or find_processes(r"Task (\d+) heartbeat timeout"):
        are = "are" if "," in lost else "is"
        return (
            f"{lost} {are} lost: no heartbeat for --heartbeat_timeout={heartbeat_timeout} s. This "
            "process cannot continue without and has ended. The log of the lost process, or the "
            f"scheduler, may tell why. {restart}"
        )
    if restarted := find_processes(r"(\d+) unexpectedly tried to connect"):
        return (
            f"{restarted} was lost and has restarted. This process has ended, so that all begin "
            f"together. {restart}"
        )
    if ended := find_processes(r"first task at the barrier: (\d+)"):
        return f"{ended} ended while others were working; its log tells why. {restart}"
    address = f" at {coordinator}" if coordinator else ""
    return (
        f"process 0 is lost: it coordinates the others{address} and does not answer. This process "
        "cannot continue without and has ended. The log of process 0, or the scheduler, may tell "
        f"why. {restart}"
    )


def _copy(pipe, recent: bytearray) -> None:
    """Copies a pipe to standard error and remembers its end."""
    while chunk := pipe.read1():
        sys.stderr.buffer.write(chunk)
        sys.stderr.flush()
        recent += chunk
        del recent[:-_REMEMBERED]


def _end_workers(session: int) -> None:
    """Ends the worker processes that the child has left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
