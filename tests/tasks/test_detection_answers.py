"""What a detector says of a picture becomes COCO's results in the data's own categories."""

import ml_collections
import numpy as np
import pytest

from segjax.data.records import decode_mask
from segjax.evaluation.coco_format import CocoResults, coco_truth
from segjax.tasks import make_task
from segjax.tasks.detection_config import as_variant, detection_config

GAPS = dict(categories=("a", "b", "c"), category_ids=(3, 5, 9), keypoint_names=(), frequencies=())


@pytest.fixture
def task(monkeypatch):
    """A model of nine classes on data whose three categories have the numbers 3, 5 and 9."""
    monkeypatch.setattr("segjax.tasks.detection.classes_of", lambda data: GAPS)
    config = as_variant(detection_config(), "debug")
    config.model = ml_collections.ConfigDict(dict(name="maskrcnn_debug", keypoints=0, classes=9))
    return make_task(config)


def test_labels_may_be_the_categories_own_numbers(task):
    truth = coco_truth([], **GAPS)
    truth["images"] = [{"id": 1, "height": 40, "width": 60}]
    results, classes = CocoResults(truth), task._class_of_label()
    assert classes == {3: 0, 5: 1, 9: 2}
    row = dict(
        boxes=np.array([[0, 0, 15, 10], [3, 3, 9, 9], [15, 10, 30, 20]], np.float32),
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        labels=np.array([9, 4, 3]),  # there is no category 4
        valid=np.array([True, True, True]),
        masks=np.ones((3, 28, 28), np.float32),
        size=np.array([20, 30]),
        original=np.array([40, 60]),
        example=np.int32(0),
    )
    task._add(results, row, classes)
    first, second = results.rows()
    assert (first["category_id"], first["bbox"]) == (9, [0, 0, 30, 20])
    assert (second["category_id"], second["bbox"]) == (3, [30, 20, 30, 20])
    mask = decode_mask(second["segmentation"]["counts"], 40, 60)
    # torchvision's rule: the mask with a border of a cell is resized to whole pixels, so it ends within a pixel or two.
    assert mask[22:38, 32:58].all() and not mask[:18].any() and not mask[:, :28].any()


def test_but_not_in_training(task):
    with pytest.raises(ValueError, match=r"has 3 classes, the model 9; set config.model.classes=3"):
        task._class_of_label(train=True)
    assert task.classes() == GAPS
