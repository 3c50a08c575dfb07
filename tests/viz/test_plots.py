"""Plots: the files are images, and invalid input raises."""

import json

import numpy as np
import pytest
from PIL import Image

from segjax.viz import plots


def read_png(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_iou_by_clicks_writes_a_png_and_needs_ious(tmp_path):
    trained = {"iou@1": 0.6, "iou@5": 0.7, "iou@5/small": 0.2, "oracle@1": 0.65, "noc@90": 7.0}
    path = plots.plot_iou_by_clicks(
        {"trained": trained, "untrained": {"iou@1": 0.1, "iou@5": 0.1}},
        tmp_path / "new" / "curve.png",
    )
    image = read_png(path)
    assert min(image.shape[:2]) > 400
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 10
    with pytest.raises(ValueError, match="'empty' has no number called 'iou@<count>'"):
        plots.plot_iou_by_clicks({"empty": {"loss": 1.0}}, tmp_path / "curve.png")


def test_training_curves_from_metrics_with_gaps(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    rows = [
        {"step": step, "loss": 1 / (1 + step), "lr": 0.1, "iou_error": None} for step in range(50)
    ]
    rows += [{"step": 49, "iou@1": 0.5, "iou@3": 0.6}, {"step": 99, "iou@1": 0.6, "iou@3": 0.7}]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    image = read_png(plots.plot_training_curves(metrics, tmp_path / "curves.png", title="run"))
    one_panel = tmp_path / "one.jsonl"
    one_panel.write_text("".join(json.dumps(row) + "\n" for row in rows[:50]))
    narrow = read_png(plots.plot_training_curves(one_panel, tmp_path / "one.png"))
    # Loss and IoU get a panel each. The constant rate and the empty metric get none.
    assert image.shape[1] == 2 * narrow.shape[1]
    metrics.write_text("")
    with pytest.raises(ValueError, match="holds no number"):
        plots.plot_training_curves(metrics, tmp_path / "curves.png")


def test_damaged_rows_are_named_and_the_half_row_of_a_killed_run_is_left_out(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    row = '{"step": 1, "loss": 0.5}\n'
    metrics.write_text(row + '{"step": 2, "lo')
    plots.plot_training_curves(metrics, tmp_path / "curves.png")
    for damaged in ("{", "[]", '{"loss": 1}', '{"step": 1, "loss": "x"}', "\xff", "[" * 10_000):
        metrics.write_text(row + damaged + "\n" + row, encoding="latin-1")
        with pytest.raises(ValueError, match="metrics.jsonl, line 2 is damaged"):
            plots.plot_training_curves(metrics, tmp_path / "curves.png")


def test_precision_recall_and_confusion_write_pngs(tmp_path):
    recall = np.linspace(0, 1, 101)
    curves = {"AP50": (recall, 1 - recall**2), "AP75": (recall, np.where(recall < 0.4, 1.0, 0.0))}
    image = read_png(plots.plot_precision_recall(curves, tmp_path / "new" / "pr.png"))
    assert min(image.shape[:2]) > 400 and len(np.unique(image.reshape(-1, 3), axis=0)) > 10
    with pytest.raises(ValueError, match="no curve"):
        plots.plot_precision_recall({}, tmp_path / "pr.png")
    few = read_png(
        plots.plot_confusion_matrix(
            np.eye(3, dtype=int), ["a", "b", "nothing"], tmp_path / "few.png"
        )
    )
    names = [f"c{k}" for k in range(30)]
    some = read_png(
        plots.plot_confusion_matrix(np.eye(30), names, tmp_path / "some.png", max_classes=9)
    )
    assert few.shape[0] < some.shape[0] < 3 * few.shape[0]  # nine of the thirty classes
    with pytest.raises(ValueError, match=r"counts of shape \(3, 3\) for 2 names"):
        plots.plot_confusion_matrix(np.eye(3), ["a", "b"], tmp_path / "few.png")
