"""Being told to stop: SIGTERM, SIGINT, or the preemption notice that several processes agree on."""

import logging
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

logger = logging.getLogger(__name__)


class Interrupted(SystemExit):
    """Training was told to stop and has saved. Uncaught, it ends the process with the signal's exit status."""

    def __init__(self, step: int, signum: int) -> None:
        super().__init__(128 + signum)
        self.step = step
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name} after saving step {self.step}"


class Interruption:
    """Notes SIGTERM and SIGINT while entered, and leaves it to the loop to save and stop.

    However often the signal comes, nothing but the note happens, so a second one cannot break the save that
    the first one asked for. With several processes jax's preemption service watches for SIGTERM instead, and
    names a step that all of them reach before they stop together; SIGINT, of which it knows nothing, is handed to it
    as SIGTERM.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._several = jax.process_count() > 1
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        again = self.signum is not None
        self.signum = self.signum or signum
        stopping = "saving, then stopping" + (
            ", all processes at one step" if self._several else ""
        )
        name = signal.Signals(signum).name
        logger.warning("%s again: the save is under way" if again else f"%s: {stopping}", name)
        if self._several and not again:
            signal.raise_signal(signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Whether to save and stop after this step. Every process must ask at every step."""
        if not self._several:
            return self.signum is not None
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self.signum = self.signum or signal.SIGTERM
        return True
