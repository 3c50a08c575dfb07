"""One of several processes of a run: how it joins the others, and how it leaves them when something goes wrong."""

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
    """The flags that say how many processes there are, which this is, and how long to wait for the others."""
    parser.add_argument(
        "--distributed", action="store_true", help="several processes; jax finds the others itself"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are")
    parser.add_argument(
        "--process_id", "--process-id", type=int, metavar="I", help="which one this is, 0..N-1"
    )
    parser.add_argument(
        "--join_timeout",
        type=int,
        default=300,
        metavar="S",
        help="seconds to wait for all to start (default 300)",
    )
    parser.add_argument(
        "--heartbeat_timeout",
        type=int,
        default=100,
        metavar="S",
        help="a process that has not been heard of for so many seconds is lost, and the others end (default 100)",
    )


def several(args: argparse.Namespace) -> bool:
    """Whether the command line asks for several processes. Raises ValueError when it does so by halves."""
    named = (args.coordinator, args.processes, args.process_id)
    if not args.distributed and any(value is not None for value in named) and None in named:
        raise ValueError(
            "--coordinator, --processes and --process_id go together: "
            f"got {args.coordinator}, {args.processes} and {args.process_id}"
        )
    for name in ("join_timeout", "heartbeat_timeout"):
        if (value := getattr(args, name)) < 1:
            raise ValueError(f"--{name} is {value}; expected a number of seconds, at least 1")
    return args.distributed or None not in named


@contextlib.contextmanager
def joined(args: argparse.Namespace) -> Iterator[None]:
    """jax.distributed inside the block, before anything asks for a device.

    A block that fails ends the process soon, though the others may be waiting for it in the middle of a step: at once
    if they all fail alike, else after GRACE seconds. When it was a computation that failed, which is what a lost peer
    looks like, jax is given the time to find out whom it has lost; it then ends the process.
    """
    import jax

    logger.info("waiting for all processes to come, up to %d s", args.join_timeout)
    with _missing_processes_named(args.join_timeout), _ctrl_c_ends():
        jax.distributed.initialize(
            *(args.coordinator, args.processes, args.process_id),
            # Process 0 gives up first and says who is missing; the others would only say that time is up.
            initialization_timeout=args.join_timeout + 10,
            heartbeat_timeout_seconds=args.heartbeat_timeout,
        )
    try:
        _say_who_we_are()
        if jax.default_backend() == "cpu":
            # There process 0 alone would find its programs in the cache, and gloo waits but 30 s for those who compile.
            jax.config.update("jax_compilation_cache_dir", None)
        yield
    except SystemExit:  # told to stop, and all stop together
        raise
    except BaseException as error:
        computing = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
        if computing:
            logger.error(
                "%s\nwaiting up to %d s to hear whether a process is lost",
                error,
                args.heartbeat_timeout,
            )
        if not _all_fail(within=GRACE + args.heartbeat_timeout * computing):
            time.sleep(GRACE * computing)  # one is lost, and jax about to say so
            atexit.register(_leave)
        raise


@contextlib.contextmanager
def _ctrl_c_ends() -> Iterator[None]:
    """Inside, Ctrl-C ends the process at once; Python's own handler would wait for jax to come back."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _say_who_we_are() -> None:
    """One line of the log: which process this is, where, with which devices. Waits until all have their devices."""
    import socket

    import jax

    logger.info(
        "process %d of %d on %s (pid %d): %d of %d devices, %s",
        *(jax.process_index(), jax.process_count(), socket.gethostname(), os.getpid()),
        *(jax.local_device_count(), jax.device_count(), jax.devices()[0].device_kind),
    )


def _all_fail(within: float) -> bool:
    """Whether every process comes here within so many seconds."""
    import jax
    from jax._src import distributed

    try:
        distributed.global_state.client.wait_at_barrier("segjax: an error", int(within * 1000))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _leave() -> None:
    """Ends the process before jax, at exit, waits minutes for the others to come to their ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


@contextlib.contextmanager
def _missing_processes_named(seconds: int) -> Iterator[None]:
    """Inside, the service that jax starts in process 0 gives up after `seconds` and names the missing processes.

    jax has the option, but not as an argument of `initialize`: without it nobody says who did not come.
    """
    import functools

    try:
        from jax._src.lib import _jax as library

        start = library.get_distributed_runtime_service
    except (ImportError, AttributeError):  # another version: then nobody is named
        yield
        return
    library.get_distributed_runtime_service = functools.partial(
        start, cluster_register_timeout=seconds
    )
    try:
        yield
    finally:
        library.get_distributed_runtime_service = start
