"""Watches the steps of a run: metrics, time, non-finite steps, compilations and profiles.

Metrics stay on the devices until they are asked for, so that the host does not wait for them.
"""

import contextlib
import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from segjax.training.reporting.metrics import average
from segjax.training.step import TrainStep
from segjax.training.throughput import compute_utilization, measure_device_memory

logger = logging.getLogger(__name__)

# Steps that the host may run ahead of the devices: enough to hide its work, few batches in memory.
_AHEAD = 2


class NonFiniteError(FloatingPointError):
    """Error of a step whose loss or gradient is not finite.

    Attributes:
      step: Number of the step, from 0.
      metrics: Metrics of the step.
      index: `index` of the examples of this process, or None.
    """

    def __init__(
        self, step: int, metrics: dict[str, float], index: Sequence[int] | None, saved: int
    ) -> None:
        """Builds the message. `saved` is the step of the checkpoint that holds the state before."""
        ids = (
            "unknown (the batches have no `index`)"
            if index is None
            else ", ".join(str(i) for i in index)
        )
        numbers = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
        process = f" of process {jax.process_index()}" if jax.process_count() > 1 else ""
        super().__init__(
            f"step {step}: loss or gradients are not finite ({numbers}). Examples{process} by "
            f"index: {ids}. The state before this step is saved as checkpoint {saved}. Look at "
            "these examples; lower optimizer.peak_lr or set optimizer.clip_norm"
        )
        self.step = step
        self.metrics = metrics
        self.index = index


class Monitor:
    """Collects the metrics and times of steps. Close it, or an unfinished profile is lost."""

    def __init__(
        self,
        step: TrainStep,
        batch_size: int,
        profile_steps: Sequence[int] = (),
        profile_dir: pathlib.Path | None = None,
        *,
        flops: float = 0.0,
        peak_tflops: float = 0.0,
        expected_compilations: int = 1,
    ) -> None:
        """Starts the clock.

        Args:
          step: The compiled step, to count its compilations.
          batch_size: Images in a global batch.
          profile_steps: (first, last) step to profile, or ().
          profile_dir: Folder for the profile.
          flops: Floating-point operations for one image. 0: unknown.
          peak_tflops: Peak of one chip, in 1e12 operations per second. 0: unknown.
          expected_compilations: Number of different batch shapes.
        """
        self._step, self._expected_compilations = step, expected_compilations
        self._batch_size = batch_size
        self._throughput = dict(flops=flops, peak=peak_tflops)
        self._profile = tuple(profile_steps)
        self._profile_dir = profile_dir
        self._tracing = False
        self._pending: list[tuple[int, Any, dict[str, jax.Array]]] = []
        self._rows: list[dict[str, np.ndarray]] = []
        self._compiled = 0
        self._warned = False
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves past compilation, evaluation and saving out of the times of the next row."""
        self._began, self._waited, self._timed = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Counts the time of its block as time spent waiting for a batch."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextlib.contextmanager
    def stepping(self, number: int) -> Iterator[None]:
        """Wraps the call of step `number` and starts the profile if it is due.

        A run that is resumed between the first and the last profiled step is profiled too.
        """
        if self._profile and not self._tracing and self._profile[0] <= number <= self._profile[1]:
            jax.profiler.start_trace(str(self._profile_dir))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def add(self, done: int, index: np.ndarray | None, metrics: dict[str, jax.Array]) -> None:
        """Adds the metrics of a step without fetching them, and ends the profile when it is due.

        Args:
          done: Number of steps done, including this one.
          index: `index` of the examples of this process, or None.
          metrics: Metrics on the devices, with "finite".
        """
        self._pending.append((done - 1, index, metrics))
        self._timed += 1
        # Wait for an older step, so that batches do not pile up on the devices
        if len(self._pending) > _AHEAD:
            jax.block_until_ready(self._pending[-1 - _AHEAD][2]["finite"])
        # A call that compiled is left out of the times
        if (compiled := self._step.compilations) > self._compiled:
            jax.block_until_ready(metrics)
            which = "step {done}, with another batch shape" if self._compiled else "first step"
            logger.info(
                "%s, compilation included: %.1f s",
                which.format(done=done),
                time.perf_counter() - self._began,
            )
            self._compiled = compiled
            self.restart_clock()
        # The trace ends after the devices have done the last profiled step
        if self._tracing and done > self._profile[1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """Writes the profile if one is being recorded."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def check(self, save: Callable[[], None]) -> None:
        """Fetches the metrics added so far, which waits for the devices.

        Args:
          save: Saves the state. Called before an error is raised.

        Raises:
          NonFiniteError: One of the steps was not finite.
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
        """Returns a row of the log for the metrics checked since the last one.

        Holds the means of the metrics, the last learning rate, times per step, throughput and
        memory.
        """
        # The learning rate is that of the last step, everything else a mean
        row = average(self._rows)
        row["lr"] = float(self._rows[-1]["lr"])
        self._rows = []
        if self._timed:
            seconds = time.perf_counter() - self._began
            row["seconds_per_step"] = seconds / self._timed
            row["loader_wait"] = self._waited / seconds
            images_per_second = self._batch_size * self._timed / seconds
            row |= compute_utilization(
                images_per_second, chips=jax.device_count(), **self._throughput
            )
        row |= measure_device_memory(jax.local_devices())
        self.restart_clock()
        return row

    def _check_compilations(self) -> None:
        """Logs an error, once, if the step was compiled more often than batch shapes explain."""
        count = self._step.compilations
        if count > self._expected_compilations and not self._warned:
            self._warned = True
            logger.error(
                "the training step was compiled %d times, expected %d: batches must keep their "
                "shapes and dtypes from step to step",
                *(count, self._expected_compilations),
            )
