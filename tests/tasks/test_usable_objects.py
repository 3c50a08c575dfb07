"""Training refuses data without a prompt or a box, and stops if augmentation leaves none."""

import numpy as np
import pytest
from raw_folders import annotation, square, write_coco

from segjax.data.prepare import prepare
from segjax.tasks import make_task
from segjax.tasks.detection.config import detection_config
from segjax.tasks.promptable.config import promptable_config
from segjax.tasks.usable_objects import CheckedBatches, NoUsableObjectError

MASK = [square(2, 3, 8)]
CROWD = annotation(1, MASK, iscrowd=1)
OBJECT = annotation(2, MASK)
BOX = annotation(3, [], bbox=[2, 3, 8, 8])


def make_config(folder, kind, annotations, **data):
    """Prepares annotations of one image as train and val, and returns a config that reads them."""
    for split in ("train", "val"):
        write_coco(folder / "raw", annotations, split)
    prepare("coco", folder / "raw", folder / "out", keep_empty=True)
    config = (promptable_config if kind == "promptable" else detection_config)()
    config.data.update(source=str(folder / "out"), **data)
    config.model = (
        dict(name="sam_debug")
        if kind == "promptable"
        else dict(name="maskrcnn_debug", classes=2, keypoints=0)
    )
    return config


def first_batch(config):
    with make_task(config).batches("train", batch_size=2) as batches:
        return next(batches)


@pytest.mark.parametrize(
    ("kind", "annotations", "counts"),
    [
        ("promptable", [CROWD, CROWD], "1 images with 2 crowds"),
        ("promptable", [BOX, CROWD], "1 with a box and no mask"),
        ("promptable", [], "no objects at all"),
        ("detection", [CROWD], "1 images with 1 crowds"),
        ("detection", [], "no objects at all"),
    ],
)
def test_data_without_a_usable_object_is_refused(tmp_path, kind, annotations, counts):
    config = make_config(tmp_path, kind, annotations)
    with pytest.raises(NoUsableObjectError, match="no object of split 'train' of .* can") as caught:
        first_batch(config)
    assert counts in str(caught.value)


def test_one_usable_object_is_enough(tmp_path):
    config = make_config(tmp_path, "promptable", [CROWD, BOX, OBJECT])
    assert first_batch(config)["valid"].sum() == 2  # the same object in two examples
    assert first_batch(make_config(tmp_path / "b", "detection", [CROWD, BOX]))["valid"].sum() == 4


def test_a_mask_head_without_a_mask_to_learn_is_reported(tmp_path, caplog):
    first_batch(make_config(tmp_path / "a", "detection", [OBJECT, BOX]))
    assert "mask head" not in caplog.text
    first_batch(make_config(tmp_path / "b", "detection", [BOX]))
    assert "the mask head learns nothing: set config.model.mask_convs=0" in caplog.text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"min_area": 1e6}, "1 smaller than config.data.min_area = 1e+06 canvas pixels"),
        ({"max_area_fraction": 0.01}, "larger than config.data.max_area_fraction = 0.01"),
    ],
)
def test_limits_that_no_object_meets_are_named(tmp_path, data, reason):
    with pytest.raises(NoUsableObjectError) as caught:
        first_batch(make_config(tmp_path, "promptable", [OBJECT], **data))
    assert reason in str(caught.value)


def test_limits_that_an_object_meets_at_some_scale_pass(tmp_path):
    # 64 of 600 pixels fill about 280 of 64 x 64 canvas pixels, and four times that at scale 2.
    config = make_config(tmp_path, "promptable", [OBJECT], min_area=500.0)
    message = "first 64 training examples hold no object"
    with (
        make_task(config).batches("train", batch_size=2) as batches,
        pytest.raises(NoUsableObjectError, match=message),
    ):
        for _ in range(40):
            next(batches)
    config.data.augment.scale = (2.0, 2.0)
    assert first_batch(config)["image"].shape == (2, 64, 64, 3)


def make_batches(found_at, crowd=False):
    """Batches of two examples, of which the given one holds an object."""
    for number in range(100):
        valid = np.full((2, 3), number == found_at)
        extra = {"crowd": valid} if crowd else {}
        yield {"valid": valid, "weight": np.ones(2, np.float32)} | extra


def test_batches_are_watched_until_the_first_object():
    assert len(list(CheckedBatches(make_batches(31), 1, "none"))) == 100
    for batches in (make_batches(32), make_batches(3, crowd=True)):
        with pytest.raises(NoUsableObjectError, match="first 64 training examples .* none"):
            list(CheckedBatches(batches, 32, "none"))
    with pytest.raises(NoUsableObjectError, match="first 80 training"):
        list(CheckedBatches(make_batches(60), 40, "none"))
