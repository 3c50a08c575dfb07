"""Contestants of a benchmark as processes that take turns, one call each."""

import multiprocessing
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


class Worker:
    """A contestant in its own process, which runs a part of the benchmark on request.

    Args:
      make_parts: Called in the process as make_parts(side, **options). Returns functions by name.
      side: Name of the contestant.
      options: Keyword arguments of `make_parts`.
    """

    def __init__(
        self, make_parts: Callable[..., dict[str, Callable]], side: str, options: Mapping[str, Any]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other_end = context.Pipe()
        arguments = (other_end, make_parts, side, options)
        context.Process(target=_serve, args=arguments, daemon=True).start()

    def run(self, part: str) -> tuple[float, float]:
        """Runs a part once and returns the seconds and the memory that it added, in MiB."""
        self.pipe.send(part)
        return self.pipe.recv()


def _serve(
    pipe: Any, make_parts: Callable[..., dict[str, Callable]], side: str, options: Mapping[str, Any]
) -> None:
    """Runs the parts that the other end of the pipe names, until it closes."""
    parts = make_parts(side, **options)
    while True:
        try:
            part = pipe.recv()
        except EOFError:
            return
        before = reset_peak()
        started = time.perf_counter()
        parts[part]()
        pipe.send((time.perf_counter() - started, read_peak() - before))


def run_in_turn(
    workers: Sequence[Worker], part: str, repeats: int
) -> tuple[list[float], list[list[float]]]:
    """Runs a part on all workers in turn.

    Args:
      workers: The contestants.
      part: Name of the part.
      repeats: Number of measured calls of each worker, after a first one.

    Returns:
      MiB that the first call added, and the seconds of the measured calls, both per worker.
    """
    # The first call warms up and gives the peak.
    peaks, times = [worker.run(part)[1] for worker in workers], [[] for _ in workers]
    for _ in range(repeats):
        for worker, seconds in zip(workers, times, strict=True):
            seconds.append(worker.run(part)[0])
    return peaks, times


def format_table_head(sides: Sequence[str]) -> str:
    """Formats two lines of Markdown, the head for the rows of `format_table_row`."""
    cells = " | ".join(f"{side} | peak MiB" for side in sides)
    return f"| part | {cells} | ratios to the first |\n" + "|---" * (2 + 2 * len(sides)) + "|"


def format_table_row(part: str, peaks: Sequence[float], times: Sequence[Sequence[float]]) -> str:
    """Formats a row of Markdown: median (lowest) in ms, peak, and ratios of the medians."""
    medians = [np.median(seconds) for seconds in times]
    rows = zip(medians, times, peaks, strict=True)
    cells = " | ".join(
        f"{1e3 * median:.0f} ({1e3 * min(seconds):.0f}) ms | {peak:.0f}"
        for median, seconds, peak in rows
    )
    ratios = " ".join(f"{median / medians[0]:.2f}" for median in medians[1:])
    return f"| {part} | {cells} | {ratios} |"


def reset_peak() -> float:
    """Resets the highest resident size (Linux) and returns the present size in MiB."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _read_status("VmRSS")


def read_peak() -> float:
    """Returns the highest resident size since `reset_peak` in MiB."""
    return _read_status("VmHWM")


def _read_status(field: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1]) / 1024
