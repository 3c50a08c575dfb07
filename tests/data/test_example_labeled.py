"""Labels of images, and errors for data without any."""

import numpy as np
import pytest

from segjax.data.examples.crop import CropExample
from segjax.data.examples.labeled import LabeledExample, check_labels, get_label
from segjax.data.fetch import SettingsError
from segjax.data.loader import make_loader
from segjax.data.splits import SpreadRecords, list_categories
from segjax.data.synthetic.scenes import SyntheticScenes


def record(label=None, areas=(), categories=(), crowd=None):
    objects = {
        "area": np.array(areas, np.float32),
        "category": np.array(categories, np.int32),
        "crowd": np.zeros(len(areas), bool) if crowd is None else np.array(crowd),
    }
    image = np.full((40, 48, 3), 7, np.uint8)
    return {"image": image, "image_id": "one", "objects": objects} | (
        {} if label is None else {"label": label}
    )


def example_of(record, rule="record", classes=5):
    example = LabeledExample(CropExample(32, train=False), rule, classes)
    return example(record, np.random.default_rng(0))


def test_the_label_is_the_records_or_that_of_the_largest_object():
    assert get_label(record(label=3), "record") == 3 and get_label(record(), "record") is None
    objects = dict(areas=(5, 90, 20), categories=(1, 2, 4))
    assert get_label(record(**objects), "largest") == 2
    assert get_label(record(**objects, crowd=(False, True, False)), "largest") == 4
    assert get_label(record(), "largest") is None


def test_an_example_has_a_crop_and_a_label_and_no_weight_without_one():
    found = example_of(record(label=3))
    assert found["image"].shape == (32, 32, 3) and (found["label"], found["weight"]) == (3, 1)
    found = example_of(record())
    assert (found["label"], found["weight"]) == (0, 0) and found["label"].dtype == np.int32


@pytest.mark.parametrize("label", [5, -1])
def test_a_label_beyond_the_classes_ends_loading_and_names_the_image(label):
    message = f"image 'one' has label {label}; expected 0 to 4: set config.model.classes"
    with pytest.raises(SettingsError, match=message):
        example_of(record(label=label))
    example = LabeledExample(CropExample(32, train=False), "record", 5)
    with pytest.raises(SettingsError, match=message):
        next(
            make_loader(
                [record(label=1), record(label=label)],
                example,
                batch_size=2,
                train=False,
                threads=0,
            )
        )


def test_a_source_without_labels_raises_and_names_the_other_rule():
    with pytest.raises(
        ValueError,
        match="no image of 'x' has a class: its records have no label.*label='largest'",
    ):
        check_labels([record(areas=(3,), categories=(0,))], "record", "'x'")
    with pytest.raises(ValueError, match="have no objects.*label='record'"):
        check_labels([record(label=2)] * 300, "largest", "'x'")
    check_labels([record()] * 10 + [record(label=2)] * 10, "record", "'x'")
    with pytest.raises(
        ValueError, match="config.data.label is 'biggest'; choose one of record, largest"
    ):
        LabeledExample(CropExample(32), "biggest", 5)


def test_scenes_are_labeled_by_their_shapes():
    names = list_categories({"source": "synthetic"})
    scenes = SyntheticScenes("train", 12, size=48)
    labels = [get_label(scenes[index], "largest") for index in range(12)]
    assert len(set(labels)) > 2 and max(labels) < len(names) == 5


def test_spread_records_cover_a_source():
    assert [SpreadRecords(range(10), 4)[i] for i in range(4)] == [0, 2, 5, 7]
    assert len(SpreadRecords(range(3), 9)) == 3


def test_a_margin_cuts_off_the_borders_as_on_imagenet():
    """Uses 256 / 224: the shorter side becomes 256, and the central 224 pixels remain."""
    image = np.zeros((512, 1024, 3), np.uint8)
    image[32:-32, 288:-288] = 200  # the middle 448 x 448 pixels
    record = {"image": image, "image_id": "a"}
    cropped, full = (
        CropExample(224, train=False, margin=margin)(record, None)["image"]
        for margin in (256 / 224, 1.0)
    )
    assert (cropped == 200).all() and (full[:10] == 0).all() and (full[28:-28, 28:-28] >= 200).all()
    with pytest.raises(ValueError, match="margin is at least 1"):
        CropExample(32, margin=0.9)
