"""Report of `segjax eval` for a detector: COCO's tables, curves, a confusion matrix and images."""

import pathlib
import sys
from collections.abc import Mapping

from segjax.data.report import read_skipped
from segjax.evaluation.detection_scores import DetectionScores, format_table
from segjax.files import write_atomic, write_json
from segjax.images.encoding import encode_png


def write_report(
    scores: Mapping[str, DetectionScores],
    out: pathlib.Path | None,
    *,
    title: str,
    min_score: float,
) -> str:
    """Writes the files of the report and returns the tables as text.

    Files: evaluation.json, detections.json and truth.json (COCO's formats), detections.png,
    confusion.png and precision_recall.png.

    Args:
      scores: scores by name: "trained", and perhaps "untrained".
      out: folder for the files. None: nothing is written.
      title: name of the checkpoint. It heads the table if there is only one.
      min_score: detections of a lower score are left out of the confusion matrix.

    Returns:
      One table per name, and the names of the files.
    """
    lines = [
        f"{name if len(scores) > 1 else title}\n{format_table(values)}"
        for name, values in scores.items()
    ]
    if out is not None:
        from segjax.viz import plots  # matplotlib takes a second to import

        # Files of the trained model
        trained = scores["trained"]
        trained.save(out)
        if trained.sheet is not None:
            write_atomic(out / "detections.png", encode_png(trained.sheet))
        plots.plot_confusion_matrix(
            *trained.confusion(min_score),
            out / "confusion.png",
            title=f"Detections with a score of {min_score:g} or more",
        )
        if curves := trained.curves():
            plots.plot_precision_recall(curves, out / "precision_recall.png")
        # Numbers of all models
        rows = {
            name: values.summarize() | {"per_class": values.per_class()}
            for name, values in scores.items()
        }
        write_json(out / "evaluation.json", rows)
        files = sorted(path.name for path in out.iterdir() if path.is_file())
        lines.append(f"{', '.join(files)} in {out}")
    return "\n".join(lines)


def print_skipped(folder: str, split: str) -> None:
    """Prints to stderr which images and objects of a split `segjax prepare` skipped.

    A detector can be wrong about images without objects too, so their absence changes the scores.

    Args:
      folder: prepared data. Nothing is printed for other sources.
      split: name of the split.
    """
    try:
        skipped = read_skipped(folder, split)
    # The scores do not need the report.
    except ValueError as error:
        print(error, file=sys.stderr)
        return
    for kind in ("images", "objects"):
        for reason, count in skipped[kind].items():
            print(
                f"{folder} was prepared without {count} {kind} of {split}: {reason}",
                file=sys.stderr,
            )
    if "image has no objects" in skipped["images"]:
        print(
            "(`segjax prepare --keep-empty` keeps images without objects, as COCO evaluates them)",
            file=sys.stderr,
        )
