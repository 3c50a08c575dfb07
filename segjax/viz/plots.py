"""Plots numbers of a run to PNG files.

Uses matplotlib's object-oriented API: there is no global figure and no window.
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from segjax.files import atomic_path


def plot_iou_by_clicks(
    results: Mapping[str, Mapping[str, float]], path: str | os.PathLike, *, title: str = ""
) -> pathlib.Path:
    """Plots the mean IoU against the number of clicks, one line per result.

    Args:
      results: result name -> numbers "iou@1", "iou@2", ... "oracle@1" is drawn as a diamond. Other
        numbers are ignored.
      path: PNG file. Its folders are created.
      title: title of the figure.

    Returns:
      The path.

    Raises:
      ValueError: A result without any "iou@<count>".
    """
    figure = _make_figure(6.4, 4.2)
    axes = figure.add_subplot()
    ticks, oracle = set(), None
    for index, (name, numbers) in enumerate(results.items()):
        iou = {
            int(k[4:]): v for k, v in numbers.items() if k.startswith("iou@") and k[4:].isdigit()
        }
        if not iou:
            raise ValueError(
                f"result {name!r} has no number called 'iou@<count>'; it has {sorted(numbers)}"
            )
        counts, color = sorted(iou), _line_color(index)
        ticks |= iou.keys()
        axes.plot(counts, [iou[k] for k in counts], "-o", color=color, lw=2, ms=5, label=name)
        # Values at both ends of the line
        for k, offset, side in ((counts[0], -9, "right"), (counts[-1], 9, "left")):
            options = dict(textcoords="offset points", ha=side, va="center", color=color)
            axes.annotate(f"{iou[k]:.2f}", (k, iou[k]), (offset, 0), **options)
        if "oracle@1" in numbers:
            oracle = axes.plot(1, numbers["oracle@1"], "D", mfc="white", mec=color, ms=6)[0]
    if oracle is not None:
        axes.plot([], [], "D", mfc="white", mec="0.3", ms=6, label="best of three masks")
    axes.set(xlabel="points", ylabel="mean IoU", ylim=(0, 1.02), xticks=sorted(ticks))
    axes.margins(x=0.1)
    figure.suptitle(title or "Interactive segmentation", fontsize=12)
    figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9)
    return _save(figure, path)


def plot_training_curves(
    metrics: str | os.PathLike, path: str | os.PathLike, *, title: str = ""
) -> pathlib.Path:
    """Plots the metrics of a run, one panel per metric.

    Numbers of clicks ("iou@1", "iou@5") share a panel. Constant metrics are left out, unless all
    metrics are constant.

    Args:
      metrics: metrics.jsonl of the run: JSON lines with "step" and numbers. Nulls are gaps.
      path: PNG file. Its folders are created.
      title: title of the figure.

    Returns:
      The path.

    Raises:
      ValueError: No row holds a number, or a row is damaged. The half row that a killed run may
        leave at the end is left out.
    """
    series = _read_series(pathlib.Path(metrics))
    if not series:
        raise ValueError(f"{metrics} holds no number to plot; has the run logged a step yet?")
    changing = {name: rows for name, rows in series.items() if len(set(rows.values())) > 1}
    series = changing or series
    # "iou@1" and "iou@5" share the panel "iou".
    panels: dict[str, list[str]] = {}
    for name in series:
        panels.setdefault(re.sub(r"@\d+", "", name), []).append(name)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _make_figure(4.2 * columns, 2.6 * rows + 0.5)
    for position, (panel, names) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, position)
        for index, name in enumerate(names):
            _plot_series(axes, series[name], name, _line_color(index))
        axes.set_title(panel, loc="left", fontsize=10)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    figure.supxlabel("step", fontsize=9)
    return _save(figure, path)


def plot_precision_recall(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | os.PathLike, *, title: str = ""
) -> pathlib.Path:
    """Plots precision against recall, one line per curve, with the AP in the legend.

    Args:
      curves: curve name -> (recall [R], precision [R]), see `CocoScores.curve`.
      path: PNG file. Its folders are created.
      title: title of the figure.

    Returns:
      The path.

    Raises:
      ValueError: There is no curve.
    """
    if not curves:
        raise ValueError("there is no curve of precision and recall to plot")
    figure = _make_figure(5.0, 4.6)
    axes = figure.add_subplot()
    for index, (name, (recall, precision)) in enumerate(curves.items()):
        label = f"{name}: {np.mean(precision):.3f}"
        options = dict(color=_line_color(index), lw=2, label=label, drawstyle="steps-pre")
        axes.plot(recall, precision, **options)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02), aspect="equal")
    figure.suptitle(title or "Precision and recall", fontsize=12)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=9)
    return _save(figure, path)


def plot_confusion_matrix(
    counts: np.ndarray,
    names: Sequence[str],
    path: str | os.PathLike,
    *,
    title: str = "",
    max_classes: int = 40,
) -> pathlib.Path:
    """Plots a confusion matrix as shares of its rows.

    Args:
      counts: int [K, K], by true class (rows) and predicted class (columns).
      names: K class names.
      path: PNG file. Its folders are created.
      title: title of the figure.
      max_classes: with more classes, only the most frequent ones are shown.

    Returns:
      The path.

    Raises:
      ValueError: The matrix is not square, or there is another number of names.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(names), len(names)):
        raise ValueError(
            f"counts of shape {counts.shape} for {len(names)} names; expected one row and one "
            "column per name"
        )
    # The most frequent classes, in their usual order
    frequency = counts.sum(0) + counts.sum(1)
    shown = np.sort(np.argsort(-frequency, kind="stable")[:max_classes])
    shares = (counts / np.maximum(1, counts.sum(1, keepdims=True)))[np.ix_(shown, shown)]

    side = max(3.6, 0.36 * len(shown) + 2.2)
    figure = _make_figure(side + 0.6, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = dict(ticks=range(len(shown)), labels=[names[index] for index in shown], fontsize=8)
    axes.set_xticks(**ticks, rotation=90)
    axes.set_yticks(**ticks)
    axes.set(xlabel="predicted", ylabel="ground truth")
    # Counts in the cells, while there is room for them
    nonzero = np.nonzero(counts[np.ix_(shown, shown)])
    for row, column in zip(*nonzero, strict=True) if len(shown) <= 20 else ():
        ink = "white" if shares[row, column] > 0.6 else "0.2"
        count = counts[shown[row], shown[column]]
        axes.annotate(f"{count}", (column, row), ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the row")
    figure.suptitle(title or "Confusion", fontsize=12)
    return _save(figure, path, grid=False)


def _read_series(path: pathlib.Path) -> dict[str, dict[int, float]]:
    """Reads metrics.jsonl.

    Returns:
      metric -> step -> value.

    Raises:
      ValueError: A row is not an object with a step and numbers.
    """
    series: dict[str, dict[int, float]] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = {name: None if v is None else float(v) for name, v in json.loads(line).items()}
            step = int(row.pop("step"))
        except Exception as error:  # noqa: BLE001 - damaged rows raise all kinds of errors
            if number == len(lines):
                continue
            raise ValueError(
                f"{path}, line {number} is damaged ({line[:40]!r}); expected a JSON object of "
                'numbers with "step". Remove the line'
            ) from error
        for name, value in row.items():
            if value is not None:
                series.setdefault(name, {})[step] = value
    return series


def _make_figure(width: float, height: float):
    """Makes an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=140, layout="constrained")


def _save(figure, path: str | os.PathLike, *, grid: bool = True) -> pathlib.Path:
    """Styles the axes and writes the figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(grid, **({"color": "0.92"} if grid else {}))
        axes.set_axisbelow(True)
    with atomic_path(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)
    return pathlib.Path(path)


def _line_color(index: int) -> tuple[float, float, float]:
    """Returns the RGB color of a line, 0..1."""
    lines = (
        (0, 114, 178),
        (213, 94, 0),
        (0, 145, 105),
        (204, 100, 160),
        (120, 120, 120),
        (200, 150, 0),
        (86, 160, 215),
    )
    return tuple(channel / 255 for channel in lines[index % len(lines)])


def _plot_series(
    axes, values: dict[int, float], name: str, color: tuple[float, float, float]
) -> None:
    """Plots one line. A noisy one is faint, under its running mean."""
    steps, numbers = np.array(sorted(values.items())).T
    # Noisy: the second differences are large against the range.
    noisy = len(numbers) > 30 and np.median(np.abs(np.diff(numbers, n=2))) > 0.005 * np.ptp(numbers)
    options = dict(color=color, lw=1.8, label=name)
    if noisy:
        axes.plot(steps, numbers, color=color, lw=1, alpha=0.3)
        axes.plot(steps, _smooth(numbers), **options)
    else:
        axes.plot(steps, numbers, marker="." if len(numbers) <= 30 else "", **options)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Computes the running mean over a fiftieth of the series to either side."""
    reach = max(2, len(values) // 50)
    # Differences of the cumulative sum are window sums.
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (total[high] - total[low]) / (high - low)
