"""Tells a person how a run goes: a progress bar on a terminal, and one short line per row."""

import datetime
import sys
from collections.abc import Mapping, Sequence

# Without a choice of the task, so many metrics are printed. The others are in metrics.jsonl.
MOST_SHOWN = 6
# Fields about speed and the optimizer, which are printed in a short form or not at all
_QUIET = {
    *("lr", "grad_norm", "eval_seconds", "seconds_per_step", "loader_wait"),
    *("images_per_second", "images_per_second_per_chip", "tflops_per_chip", "mfu"),
    *("memory_peak_gib", "memory_limit_gib"),
}
# A larger share of the time that devices wait for data is worth a word.
_MUCH_WAITING = 0.1


class Progress:
    """Progress bar with the remaining time on a terminal, else one plain line per row."""

    def __init__(self, step: int, total_steps: int, shown: Sequence[str] = ()) -> None:
        """Starts the bar.

        Args:
          step: Steps done when the run starts.
          total_steps: Length of the run.
          shown: Names of the metrics that are printed, where a row has them. Empty: the first
            `MOST_SHOWN` of each row.
        """
        from rich.console import Console

        self._console = Console()
        self._total = total_steps
        self._shown = shown
        self._bar = None
        if self._console.is_terminal:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("training", completed=step, total=total_steps)
            self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the bar to a step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Prints one row, above the bar if there is one."""
        line = format_row(step, self._total, values, self._shown)
        if self._bar is not None:
            self._console.print(line, highlight=False)
        else:
            print(line, file=sys.stdout, flush=True)

    def close(self) -> None:
        """Leaves the bar as it is and releases the terminal."""
        if self._bar is not None:
            self._bar.stop()


def format_row(
    step: int, total_steps: int, values: Mapping[str, float], shown: Sequence[str] = ()
) -> str:
    """Formats a row of the log for people: the metrics that matter, the speed and the time left.

    Example:
      >>> format_row(100, 1600, {"loss": 2.994, "lr": 0.006, "seconds_per_step": 0.5}, ["loss"])
      'step 100/1600  loss 2.994  lr 0.006  0.5 s/step  12:30 left'

    Args:
      step: Number of steps done.
      total_steps: Length of the run.
      values: Metric name -> value. A training row has "seconds_per_step", the row of an evaluation
        "eval_seconds".
      shown: See `Progress`.

    Returns:
      One line.
    """
    names = [name for name in shown if name in values]
    names = names or [name for name in values if name not in _QUIET][:MOST_SHOWN]
    parts = [f"step {step}/{total_steps}"] + [f"{name} {values[name]:.4g}" for name in names]
    if "lr" in values:
        parts.append(f"lr {values['lr']:.2g}")
    if seconds := values.get("seconds_per_step"):
        parts.append(f"{seconds:.2g} s/step")
        if values.get("loader_wait", 0) > _MUCH_WAITING:
            parts.append(f"waits for data {values['loader_wait']:.0%} of the time")
        if step < total_steps:
            left = datetime.timedelta(seconds=round(seconds * (total_steps - step)))
            parts.append(f"{str(left).removeprefix('0:')} left")
    if "eval_seconds" in values:
        parts[0] = f"eval {step}/{total_steps}"
        parts.append(f"took {values['eval_seconds']:.0f} s")
    return "  ".join(parts)
