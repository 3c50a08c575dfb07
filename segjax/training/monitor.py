"""Watches the steps of a run: metrics kept on the device until asked for, time, non-finite steps, compilations."""

import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from segjax.training.metrics import means
from segjax.training.step import CompiledStep
from segjax.training.throughput import device_memory, utilisation

logger = logging.getLogger(__name__)

_AHEAD = (
    2  # steps the host may run ahead of the devices: enough to hide its work, few batches in memory
)


class NonFiniteError(FloatingPointError):
    """A step met a loss or gradient that is not finite. `step` is its number (0-based), `index` its examples."""

    def __init__(
        self, step: int, metrics: dict[str, float], index: Sequence[int] | None, saved: int
    ) -> None:
        ids = (
            "unknown (the batches have no `index`)"
            if index is None
            else ", ".join(str(i) for i in index)
        )
        numbers = ", ".join(f"{k} {v:g}" for k, v in metrics.items())
        process = f" of process {jax.process_index()}" if jax.process_count() > 1 else ""
        super().__init__(
            f"step {step}: loss or gradients are not finite ({numbers}). Examples{process} by index: {ids}. The state "
            f"before this step is saved as checkpoint {saved}. Look at these examples; lower optimizer.peak_lr or set "
            "optimizer.clip_norm"
        )
        self.step = step
        self.metrics = metrics
        self.index = index


class Monitor:
    """See the module. step: the compiled step; profile_steps: (first, last) to trace, or ().

    operations: of one image, and peak_tflops: of one chip, as `utilisation` takes them. programs: how often the step
    may be compiled, once for each shape of batches.

    Close it, or the trace of a run that ends within these steps is lost.
    """

    def __init__(
        self,
        step: CompiledStep,
        batch_size: int,
        profile_steps: Sequence[int] = (),
        profile_dir: pathlib.Path | None = None,
        *,
        operations: float = 0.0,
        peak_tflops: float = 0.0,
        programs: int = 1,
    ) -> None:
        self._step, self._programs = step, programs
        self._batch_size = batch_size
        self._work = dict(operations=operations, peak=peak_tflops)
        self._profile = tuple(profile_steps)
        self._profile_dir = profile_dir
        self._tracing = False
        self._pending: list[tuple[int, Any, dict[str, jax.Array]]] = []
        self._rows: list[dict[str, np.ndarray]] = []
        self._compiled = 0
        self._warned = False
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves what came before (compilation, evaluation, saving) out of the next row's times."""
        self._began, self._waited, self._timed = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Around the wait for a batch."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextlib.contextmanager
    def stepping(self, number: int) -> Iterator[None]:
        """Around the call of step `number`; starts the profile, in a run resumed within its steps too."""
        if self._profile and not self._tracing and self._profile[0] <= number <= self._profile[1]:
            jax.profiler.start_trace(str(self._profile_dir))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def add(self, done: int, index: np.ndarray | None, metrics: dict[str, jax.Array]) -> None:
        """Takes in one step's metrics without fetching them; ends the profile after its last step."""
        self._pending.append((done - 1, index, metrics))
        self._timed += 1
        if len(self._pending) > _AHEAD:
            jax.block_until_ready(self._pending[-1 - _AHEAD][2]["finite"])
        if (compiled := self._step.compilations) > self._compiled:
            jax.block_until_ready(metrics)
            which = (
                "first step" if not self._compiled else f"step {done}, of batches of another shape"
            )
            logger.info(
                "%s, compilation included: %.1f s", which, time.perf_counter() - self._began
            )
            self._compiled = compiled
            self.restart_clock()
        if self._tracing and done > self._profile[1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Ends the profile if one is under way, so that it is written however the run ends."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def check(self, save: Callable[[], None]) -> None:
        """Fetches the metrics taken in so far, which waits for the devices.

        Calls `save` and raises NonFiniteError when one of the steps was not finite.
        """
        fetched = jax.device_get([metrics for _, _, metrics in self._pending])
        for (number, index, _), row in zip(self._pending, fetched, strict=True):
            if not row.pop("finite"):
                save()
                ids = None if index is None else np.asarray(index).tolist()
                raise NonFiniteError(number, {k: float(v) for k, v in row.items()}, ids, number)
        self._pending.clear()
        self._rows += fetched
        self._check_compilations()

    def row(self) -> dict[str, float]:
        """Means of the metrics checked since the last row, the last learning rate, times per step, and memory."""
        row = means(self._rows)
        row["lr"] = float(self._rows[-1]["lr"])
        self._rows = []
        if self._timed:
            seconds = time.perf_counter() - self._began
            row["seconds_per_step"] = seconds / self._timed
            row["loader_wait"] = self._waited / seconds
            row |= utilisation(
                self._batch_size * self._timed / seconds, chips=jax.device_count(), **self._work
            )
        row |= device_memory(jax.local_devices())
        self.restart_clock()
        return row

    def _check_compilations(self) -> None:
        count = self._step.compilations
        if count > self._programs and not self._warned:
            self._warned = True
            logger.error(
                "the training step was compiled %d times, expected %d: batches must keep their shapes and dtypes from "
                "step to step",
                *(count, self._programs),
            )
