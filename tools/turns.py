"""Sides of a benchmark as processes that take turns, one call each, while the others sleep."""

import multiprocessing
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


class Worker:
    """A side in a process of its own, that runs a part when asked to.

    parts: (side, **options) -> what can be run, by name; called there.
    """

    def __init__(
        self, parts: Callable[..., dict[str, Callable]], side: str, options: Mapping[str, Any]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, parts, side, options), daemon=True).start()

    def ask(self, part: str) -> tuple[float, float]:
        """(seconds, MiB that it took beyond what was held)."""
        self.pipe.send(part)
        return self.pipe.recv()


def _serve(
    pipe, parts: Callable[..., dict[str, Callable]], side: str, options: Mapping[str, Any]
) -> None:
    table = parts(side, **options)
    while True:
        try:
            part = pipe.recv()
        except EOFError:  # nobody asks any more
            return
        held = reset_peak()
        began = time.perf_counter()
        table[part]()
        pipe.send((time.perf_counter() - began, peak() - held))


def in_turn(
    workers: Sequence[Worker], part: str, repeats: int
) -> tuple[list[float], list[list[float]]]:
    """MiB that the first call added on each side, and the seconds of the counted calls after it."""
    peaks, times = [worker.ask(part)[1] for worker in workers], [[] for _ in workers]
    for _ in range(repeats):
        for worker, taken in zip(workers, times, strict=True):
            taken.append(worker.ask(part)[0])
    return peaks, times


def table_head(sides: Sequence[str]) -> str:
    """Two lines of Markdown for the rows of `table_row`."""
    cells = " | ".join(f"{side} | peak MiB" for side in sides)
    return f"| part | {cells} | ratios to the first |\n" + "|---" * (2 + 2 * len(sides)) + "|"


def table_row(part: str, peaks: Sequence[float], times: Sequence[Sequence[float]]) -> str:
    """Medians (lowest) in milliseconds, peaks, and the medians over the first side's."""
    medians = [np.median(taken) for taken in times]
    rows = zip(medians, times, peaks, strict=True)
    cells = " | ".join(
        f"{1e3 * median:.0f} ({1e3 * min(taken):.0f}) ms | {peak:.0f}"
        for median, taken, peak in rows
    )
    return (
        f"| {part} | {cells} | {' '.join(f'{median / medians[0]:.2f}' for median in medians[1:])} |"
    )


def reset_peak() -> float:
    """Forgets the highest resident size so far (Linux); returns the present one, MiB."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """The highest resident size since `reset_peak`, MiB."""
    return _status("VmHWM")


def _status(field: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1]) / 1024
