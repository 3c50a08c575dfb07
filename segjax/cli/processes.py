"""Joins the processes of a distributed run, and leaves them when something goes wrong."""

import argparse
import atexit
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator

logger = logging.getLogger(__name__)

GRACE = 5.0  # seconds that a process which failed waits for others that may be failing alike


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that describe the processes of a run and how long to wait for them."""
    parser.add_argument(
        "--distributed", action="store_true", help="several processes; jax finds the others itself"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument("--processes", type=int, metavar="N", help="number of processes")
    parser.add_argument(
        "--process_id", "--process-id", type=int, metavar="I", help="index of this process, 0..N-1"
    )
    parser.add_argument(
        "--join_timeout",
        type=int,
        default=300,
        metavar="S",
        help="seconds to wait for all processes to start (default 300)",
    )
    parser.add_argument(
        "--heartbeat_timeout",
        type=int,
        default=100,
        metavar="S",
        help="seconds without a heartbeat after which a process is lost and the others end "
        "(default 100)",
    )


def is_distributed(args: argparse.Namespace) -> bool:
    """Returns whether the command line asks for several processes.

    Raises:
      ValueError: Only some of the flags that go together are given, or a timeout is below 1.
    """
    address = (args.coordinator, args.processes, args.process_id)
    if not args.distributed and any(value is not None for value in address) and None in address:
        raise ValueError(
            "--coordinator, --processes and --process_id go together: "
            f"got {args.coordinator}, {args.processes} and {args.process_id}"
        )
    for name, value in (
        ("join_timeout", args.join_timeout),
        ("heartbeat_timeout", args.heartbeat_timeout),
    ):
        if value < 1:
            raise ValueError(f"--{name} is {value}; expected a number of seconds, at least 1")
    return args.distributed or None not in address


@contextlib.contextmanager
def join(args: argparse.Namespace) -> Iterator[None]:
    """Connects this process to the others with `jax.distributed`, for the time of the block.

    Enter it before anything asks jax for a device. If the block fails, the process ends soon,
    although others may be waiting for it in the middle of a step: at once if all processes fail
    alike, else after GRACE seconds. If a computation failed, which is the symptom of a lost
    process, jax first gets the time to find out which one is lost. It then ends the process.

    Args:
      args: Parsed flags, see `add_arguments`.
    """
    import jax

    # Now: in the middle of an error this would take seconds
    from segjax.training.interruption import meet_processes

    # Connect
    logger.info("waiting for all processes to join, up to %d s", args.join_timeout)
    with _report_missing_processes(args.join_timeout), _default_ctrl_c():
        jax.distributed.initialize(
            *(args.coordinator, args.processes, args.process_id),
            # Process 0 gives up first and names the missing ones. The others could not name any.
            initialization_timeout=args.join_timeout + 10,
            heartbeat_timeout_seconds=args.heartbeat_timeout,
        )
    try:
        _log_process()
        if jax.default_backend() == "cpu":
            # Only process 0 would find its programs in the cache, and gloo waits no more than 30 s
            # for those that compile.
            jax.config.update("jax_compilation_cache_dir", None)
        yield
    except SystemExit:  # all processes stop together
        raise
    except BaseException as error:
        # End soon, or wait for jax to report a lost process
        computing = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
        within = GRACE + args.heartbeat_timeout * computing
        until = time.monotonic() + within
        if computing:
            logger.error(
                "%s\nwaiting up to %d s for jax to report a lost process",
                error,
                args.heartbeat_timeout,
            )
        if not meet_processes("segjax: an error", within):
            # The barrier fails early if a process has left it, and jax may yet report that process
            if computing:
                time.sleep(max(until - time.monotonic(), 0.0) + GRACE)
            atexit.register(_exit_at_once)
        raise


@contextlib.contextmanager
def _default_ctrl_c() -> Iterator[None]:
    """Lets Ctrl-C end the process at once. Python's own handler would wait for jax to return."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _log_process() -> None:
    """Logs index, host and devices of this process. Waits until all processes have devices."""
    import socket

    import jax

    logger.info(
        "process %d of %d on %s (pid %d): %d of %d devices, %s",
        *(jax.process_index(), jax.process_count(), socket.gethostname(), os.getpid()),
        *(jax.local_device_count(), jax.device_count(), jax.devices()[0].device_kind),
    )


def _exit_at_once() -> None:
    """Ends the process before jax, at exit, waits minutes for the other processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


@contextlib.contextmanager
def _report_missing_processes(seconds: int) -> Iterator[None]:
    """Makes jax's coordinator give up after `seconds` and name the processes that did not join.

    This needs a private module of jax, the only one that segjax imports. The coordinator has the
    option `cluster_register_timeout`, but the public `jax.distributed.initialize` does not pass it
    on. With its default of an hour, the clients give up first, and none of them knows which process
    is missing. Under another version of jax without this function, no process is named.
    """
    import functools

    try:
        from jax._src.lib import _jax as library

        start = library.get_distributed_runtime_service
    except (ImportError, AttributeError):
        yield
        return
    library.get_distributed_runtime_service = functools.partial(
        start, cluster_register_timeout=seconds
    )
    try:
        yield
    finally:
        library.get_distributed_runtime_service = start
