"""Report of `segjax eval` for a SAM: a table, a curve over the number of clicks, and images."""

import pathlib
from collections.abc import Mapping

from segjax import viz
from segjax.evaluation.interactive_scores import InteractiveScores
from segjax.files import write_atomic
from segjax.images.encoding import encode_png


def write_report(
    scores: Mapping[str, InteractiveScores], out: pathlib.Path | None, *, title: str
) -> str:
    """Writes interactive.json, curve.png and pictures.png, and returns the tables as text.

    Args:
      scores: Scores by name: "trained", and perhaps "untrained".
      out: Folder for the files. None: nothing is written.
      title: Name of the checkpoint. It heads the table if there is only one.

    Returns:
      One table per name, and the paths of the files.
    """
    metrics = {
        name if len(scores) > 1 else title: found.summarize() for name, found in scores.items()
    }
    lines = [f"{name}\n{format_table(values)}" for name, values in metrics.items()]
    # Files
    if out is not None:
        from segjax.viz import plots  # matplotlib takes a second to import

        path = scores["trained"].save(out, scores.get("untrained"))
        plots.plot_iou_by_clicks(metrics, out / "curve.png")
        if rounds := scores["trained"].rounds:
            write_atomic(out / "pictures.png", encode_png(viz.draw_interaction_sheet(rounds)))
        lines.append(f"{path}, {out / 'curve.png'}")
    return "\n".join(lines)


def format_table(metrics: Mapping[str, float]) -> str:
    """Formats the mean IoU by number of clicks, for all objects and by size, as text.

    Args:
      metrics: `InteractiveScores.summarize`.
    """
    # One column per number of clicks, one row per object size
    counts = sorted(
        int(name[4:]) for name in metrics if name.startswith("iou@") and "/" not in name
    )
    lines = [f"{'mean IoU':<10}" + "".join(f"{f'{k} pt':>8}" for k in counts) + f"{'objects':>10}"]
    for size in ("", "/small", "/medium", "/large"):
        if objects := metrics.get(f"objects{size}"):
            cells = "".join(f"{metrics[f'iou@{k}{size}']:>8.3f}" for k in counts)
            lines.append(f"{size[1:] or 'all':<10}{cells}{objects:>10.0f}")
    # Number of clicks (NoC), and the best of three masks
    noc = ", ".join(f"NoC@{at} {metrics[f'noc@{at}']:.2f}" for at in (85, 90))
    cap = f"of at most {metrics['max_points']:.0f} clicks"
    lines.append(
        f"best of three masks at 1 point {metrics['oracle@1']:.3f}; {noc} {cap}; "
        f"{metrics['images']:.0f} images"
    )
    return "\n".join(lines)
