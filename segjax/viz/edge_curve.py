"""Draws precision over recall of the BSDS edge benchmark, with lines of equal F."""

import os
import pathlib

import numpy as np

from segjax.files import atomic_path


def plot_edge_curve(
    recall: np.ndarray, precision: np.ndarray, ods: float, path: str | os.PathLike
) -> pathlib.Path:
    """Draws the curve of a data set.

    Args:
      recall: [T], one value per threshold.
      precision: [T].
      ods: best F, for the legend.
      path: PNG file.

    Returns:
      The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=110)
    axes = figure.add_subplot()
    # Lines of equal F
    for f in np.arange(0.1, 1.0, 0.1):
        r = np.linspace(f / 2 + 0.001, 1, 200)
        p = f * r / (2 * r - f)
        axes.plot(r[p <= 1], p[p <= 1], color="0.85", linewidth=0.8)
        axes.annotate(f"{f:.1f}", (1.0, f / (2 - f)), fontsize=7, color="0.5")
    order = np.argsort(recall)
    axes.plot(recall[order], precision[order], linewidth=2, label=f"F {ods:.3f}")
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    axes.legend(loc="lower left")
    figure.tight_layout()
    with atomic_path(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)
    return pathlib.Path(path)
