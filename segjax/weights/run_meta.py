"""Reads the metadata of a run's checkpoints: config, metrics and class names."""

import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from segjax.files import read_json_object
from segjax.weights import checksums


def list_steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, oldest first, [] if there are none."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def read_meta(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """Reads config, metrics and class names of a checkpoint, after comparing their checksum.

    Raises:
      FileNotFoundError: the file is missing, as in a checkpoint whose deletion was interrupted.
      OSError: the file cannot be read.
      ValueError: the file is damaged.
    """
    path = folder / str(step)
    file = path / "meta" / "metadata"
    if not file.exists():
        raise FileNotFoundError("meta/metadata is missing")
    has_checksums = (path / checksums.CHECKSUMS_FILE).exists()
    if has_checksums and (damage := checksums.find_damage(path, under="meta")):
        raise ValueError(damage)
    meta = read_json_object(file, "use another checkpoint of the run")
    if not has_checksums and meta.get("checksums"):
        raise FileNotFoundError(f"{checksums.CHECKSUMS_FILE} is missing")
    metrics = meta.setdefault("metrics", {})
    are_numbers = isinstance(metrics, dict) and all(
        isinstance(value, (int, float)) for value in metrics.values()
    )
    for name, valid in (("config", isinstance(meta.get("config"), dict)), ("metrics", are_numbers)):
        if not valid:
            raise ValueError(f"{file} is damaged: it has no valid entry {name!r}")
    return meta


def read_metrics(folder: pathlib.Path) -> tuple[dict[int, dict[str, float]], dict[int, Exception]]:
    """Reads the metrics of the evaluation before each checkpoint.

    Args:
      folder: folder of the checkpoints.

    Returns:
      metrics: step -> metrics, {} if there was no evaluation.
      damaged: step -> error of `read_meta`, of the checkpoints whose metrics cannot be read.
    """
    metrics: dict[int, dict[str, float]] = {}
    damaged: dict[int, Exception] = {}
    for step in list_steps(folder):
        try:
            metrics[step] = read_meta(folder, step)["metrics"]
        except (OSError, ValueError) as error:
            damaged[step] = error
    return metrics, damaged


def find_best_step(metrics: Mapping[int, Mapping[str, float]], name: str, mode: str) -> int | None:
    """Returns the step with the best finite value of a metric, the newest of equals.

    Args:
      metrics: step -> metrics.
      name: metric.
      mode: "max" or "min".

    Returns:
      The step, None if no step has the metric.
    """
    sign = 1 if mode == "max" else -1
    ranked = [
        (sign * of[name], step)
        for step, of in metrics.items()
        if math.isfinite(of.get(name, math.nan))
    ]
    return max(ranked)[1] if ranked else None
