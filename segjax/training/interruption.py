"""Stopping a run: signals, preemption notices, and meeting the other processes."""

import logging
import signal
import threading
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """Exit of a run that was told to stop and has saved its state.

    If it is not caught, the process ends with the exit status of the signal.

    Attributes:
      step: Step that was saved.
      signum: Number of the signal.
    """

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(128 + signum)
        self.step = step
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name} after saving step {self.step}"


class Interruption:
    """Context that notes SIGTERM and SIGINT and leaves it to the loop to save and stop.

    Further signals only repeat the note, so that a second one cannot break the save that the first
    one asked for. With several processes, jax's preemption service watches for SIGTERM instead. It
    names a step that all processes reach before they stop together. It does not know SIGINT, which
    is therefore passed on to it as SIGTERM.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._distributed = jax.process_count() > 1
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        # Python lets only the main thread set signal handlers
        if threading.current_thread() is threading.main_thread():
            noted = (signal.SIGINT,) if self._distributed else (signal.SIGINT, signal.SIGTERM)
            for signum in noted:
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        repeated = self.signum is not None
        self.signum = self.signum or signum
        name = signal.Signals(signum).name
        if repeated:
            logger.warning("%s again: the state is being saved", name)
            return
        together = ", all processes at one step" if self._distributed else ""
        logger.warning("%s: saving, then stopping%s", name, together)
        if self._distributed:
            signal.raise_signal(signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Returns whether to save and stop after this step. All processes must call it."""
        if not self._distributed:
            return self.signum is not None
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self.signum = self.signum or signal.SIGTERM
        return True


def meet_processes(name: str, within: float) -> bool:
    """Waits for the other processes and returns whether all of them call this function in time.

    Args:
      name: Name of the meeting, the same in all processes. It can be used once.
      within: Seconds to wait.
    """
    # jax's own barrier, `multihost_utils.sync_global_devices`, has no timeout
    wait = multihost.get_barrier_sync_fn()
    try:
        wait(key=name, timeout_ms=int(within * 1000))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def share_text(text: str) -> str:
    """Returns the first text that is not empty, of all processes, to all. All must call it.

    Use it for the reason of an error, so that every process raises it or none does.
    """
    if jax.process_count() == 1:
        return text
    content = np.zeros(1000, np.uint8)
    encoded = np.frombuffer(text.encode()[: content.size], np.uint8)
    content[: encoded.size] = encoded
    gathered = np.asarray(multihost_utils.process_allgather(content)).reshape(-1, content.size)
    texts = (bytes(row).rstrip(b"\0").decode(errors="replace") for row in gathered)
    return next((text for text in texts if text), "")
