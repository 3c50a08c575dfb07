"""Logs of a run: JSON lines, TensorBoard, images, and what the terminal shows."""

import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from segjax.files import write_atomic
from segjax.training.reporting.progress import Progress

logger = logging.getLogger(__name__)


class MetricWriter:
    """Writer of workdir/metrics.jsonl, workdir/tb and workdir/pictures. A context manager.

    Only process 0 writes. In other processes the methods do nothing.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        *,
        step: int = 0,
        total_steps: int = 0,
        shown: Sequence[str] = (),
    ) -> None:
        """Opens the logs and drops the rows of steps that are about to be repeated.

        Args:
          workdir: Folder of the run.
          step: Steps done when the run starts. Later rows in metrics.jsonl belong to steps that
            were lost when the run was killed.
          total_steps: Length of the run, for the progress bar.
          shown: Names of the metrics that the terminal shows, see `Progress`.
        """
        self._workdir = pathlib.Path(workdir)
        self._active = jax.process_index() == 0
        if not self._active:
            return
        from tensorboardX import SummaryWriter

        # Rows of lost steps, and perhaps half a line, are dropped
        path = self._workdir / "metrics.jsonl"
        if path.exists():
            _drop_rows(path, step)
        self._lines = path.open("a")
        self._board = SummaryWriter(str(self._workdir / "tb"))
        self._progress = Progress(step, total_steps, shown)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._progress.close()
            self._lines.close()
            self._board.close()

    def scalars(self, step: int, values: Mapping[str, float], group: str = "train") -> None:
        """Writes one row. JSON has no other word for a value that is not finite than null.

        Args:
          step: Step that the values belong to.
          values: Metric name -> value.
          group: "train" or "eval", the group of the curves in TensorBoard.
        """
        if not self._active:
            return
        if os.fstat(self._lines.fileno()).st_nlink == 0:
            path = self._workdir / "metrics.jsonl"
            logger.warning("%s was deleted or replaced; later rows go to a new file", path)
            self._lines.close()
            self._lines = path.open("a")
        row = {"step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)
        self._progress.log(step, values)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images to pictures/<name>_<step>.png and TensorBoard.

        Args:
          step: Step that the images belong to.
          images: uint8 [H, W, 3] by name.
        """
        if not self._active or not images:
            return
        # A "/" in a name groups images in TensorBoard, but must not make folders here
        folder = self._workdir / "pictures"
        folder.mkdir(exist_ok=True)
        for name, image in images.items():
            Image.fromarray(np.asarray(image)).save(
                folder / f"{name.replace('/', '_')}_{step:07d}.png"
            )
            self._board.add_image(name, np.asarray(image), step, dataformats="HWC")

    def first_batch(self, image: np.ndarray) -> None:
        """Writes a drawing of the first training batch to pictures/train_0.png.

        Args:
          image: uint8 [H, W, 3].
        """
        if self._active:
            (self._workdir / "pictures").mkdir(exist_ok=True)
            Image.fromarray(image).save(self._workdir / "pictures" / "train_0.png")
            self._board.add_image("train/batch", image, 0, dataformats="HWC")

    def advance(self, step: int) -> None:
        """Moves the progress bar."""
        if self._active:
            self._progress.advance(step)


def _drop_rows(path: pathlib.Path, step: int) -> None:
    """Removes the rows of later steps from a log, and rows that are damaged."""
    rows = path.read_text(errors="replace").splitlines()
    steps = [_parse_step(row) for row in rows]
    # A killed run may leave half a line at the end
    damaged = [row for row, found in zip(rows[:-1], steps, strict=False) if found is None]
    if damaged:
        logger.warning(
            "%s: %d rows are damaged and dropped, such as %.80r", path, len(damaged), damaged[0]
        )
    kept = [
        row for row, found in zip(rows, steps, strict=True) if found is not None and found <= step
    ]
    write_atomic(path, "".join(f"{row}\n" for row in kept))


def _parse_step(row: str) -> float | None:
    """Returns the step of a row, or None if the row is damaged."""
    try:
        step = json.loads(row)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, (int, float)) else None


def average(rows: list[Mapping[str, Any]]) -> dict[str, float]:
    """Averages each metric over fetched rows."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
