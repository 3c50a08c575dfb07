"""Scores of a detector: the short summary for the log, the table, and the files."""

import json

import numpy as np
import pytest

from segjax.evaluation.coco import evaluate_coco
from segjax.evaluation.coco_results import CocoResults
from segjax.evaluation.detection_scores import DetectionScores, format_table
from segjax.masks import encode_mask

NAMES = ("cat", "dog", "owl")


def rectangle(x, y, width, height):
    mask = np.zeros((40, 40), bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture(scope="module")
def scores():
    """Returns scores of an image with a cat and a dog. The dog is detected as a cat."""
    boxes = ((2, 2, 20, 20), (25, 25, 10, 10))
    rows = [
        dict(id=n + 1, image_id=1, category_id=n, bbox=list(box), area=box[2] * box[3], iscrowd=0)
        | dict(segmentation={"size": [40, 40], "counts": encode_mask(rectangle(*box))})
        for n, box in enumerate(boxes)
    ]
    ground_truth = {"images": [{"id": 1, "height": 40, "width": 40}], "annotations": rows}
    ground_truth["categories"] = [{"id": n, "name": name} for n, name in enumerate(NAMES)]
    results = CocoResults(ground_truth)
    corners = np.array([[x, y, x + width, y + height] for x, y, width, height in boxes])
    masks = np.array([rectangle(*box) for box in boxes])
    results.add(0, corners, np.array([0.9, 0.6]), np.array([0, 0]), masks)
    kinds = {kind: evaluate_coco(ground_truth, results.rows(), kind) for kind in ("bbox", "segm")}
    return DetectionScores(kinds, {"detections_full": 0.25}, ground_truth, results)


def test_summary_for_the_log(scores):
    """AP of the cat is 1: its false positive is less confident. AP of the dog is 0."""
    expected = {
        f"{kind}/{name}": 0.5 for kind in ("bbox", "segm") for name in ("AP", "AP50", "AP75")
    }
    assert scores.summarize_for_log() == pytest.approx(expected | {"detections_full": 0.25})
    assert scores.per_class() == {
        kind: pytest.approx({"cat": 1, "dog": 0}) for kind in ("bbox", "segm")
    }
    assert (
        scores.summarize()["segm/ARs"] == pytest.approx(0.5)
        and "bbox/APl" not in scores.summarize()
    )


def test_the_table(scores):
    lines = format_table(scores).splitlines()
    assert lines[0].split() == ["percent", "AP", "AP50", "AP75", "APs", "AR100", "ARs"]
    assert lines[1].split() == ["bbox", *["50.0"] * 6] and lines[2].split()[0] == "segm"
    assert [line.split() for line in lines[4:7]] == [
        ["AP", "of", "masks", "by", "class"],
        ["cat", "100.0"],
        ["dog", "0.0"],
    ]
    assert lines[-1] == "detections_full 0.2500"
    assert [line.split() for line in format_table(scores, max_classes=1).splitlines()[4:6]] == [
        ["AP", "of", "masks", "by", "class,", "the", "lowest", "1", "of", "2"],
        ["dog", "0.0"],
    ]


def test_confusion_and_curves(scores):
    counts, names = scores.confusion(0.5)
    assert names == [*NAMES, "background"] and counts.tolist() == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0] * 4,
        [0] * 4,
    ]
    assert scores.confusion(0.7)[0][1].tolist() == [0, 0, 0, 1]
    assert list(scores.curves()) == ["bbox/AP50", "bbox/AP75", "segm/AP50", "segm/AP75"]
    recall, precision = scores.curves()["segm/AP50"]
    assert recall.shape == precision.shape == (101,) and precision.mean() == pytest.approx(0.5)


def test_saved_files(scores, tmp_path):
    annotations, results = scores.save(tmp_path)
    assert [row["category_id"] for row in json.loads(results.read_text())] == [0, 0]
    assert json.loads(annotations.read_text()) == scores.ground_truth
