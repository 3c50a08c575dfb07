"""COCO's files with keypoints: pixel centers, unlabeled keypoints, names, and `prepare`."""

import numpy as np
import pytest
from raw_folders import annotation, square, write_coco, write_keypoints

from segjax.data.examples.place_objects import find_left_right_pairs
from segjax.data.prepare import prepare
from segjax.data.records import validate_record
from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.raw import SkipCounts
from segjax.data.storage import open_source
from segjax.evaluation.coco_format import build_coco_ground_truth

NAMES = ["nose", "left_eye", "right_eye"]
FLAT = [3, 4, 2, 0, 0, 0, 5, 6, 1]
PERSON = annotation(
    1, [square(2, 3, 6)], keypoints=FLAT, num_keypoints=2, bbox=[2.5, 3.0, 5.5, 6.0]
)


def test_keypoints_lie_at_the_centers_of_their_pixels(tmp_path):
    write_coco(tmp_path, [annotation(5, [square(1, 1, 4)])])  # ignored
    faceless = annotation(2, [square(12, 3, 6)])
    source = CocoFolder(write_keypoints(tmp_path, [PERSON, faceless], NAMES), keypoints=True)
    (record,) = source.records("train", SkipCounts())
    validate_record(record)
    np.testing.assert_array_equal(
        record["objects"]["keypoints"][0], [[3.5, 4.5, 2], [0, 0, 0], [5.5, 6.5, 1]]
    )
    assert not record["objects"]["keypoints"][1].any()
    assert (
        source.keypoints == 3 and source.categories == ("person",) and source.splits == ("train",)
    )
    assert find_left_right_pairs(source.keypoint_names) == ((1, 2),)


def test_prepared_keypoints_convert_back_to_cocos_format(tmp_path):
    prepare(
        "coco", write_keypoints(tmp_path / "raw", [PERSON], NAMES), tmp_path / "out", keypoints=True
    )
    records = open_source(tmp_path / "out", "train")
    assert records.info.keypoint_names == tuple(NAMES) and records.info.keypoints == 3
    truth = build_coco_ground_truth(
        records, records.info.categories, (3,), keypoint_names=records.info.keypoint_names
    )
    (row,) = truth["annotations"]
    assert row["keypoints"] == FLAT and row["num_keypoints"] == 2 and row["bbox"] == PERSON["bbox"]
    assert truth["categories"] == [{"id": 3, "name": "person", "keypoints": NAMES}]


def test_boxes_and_keypoints_shrink_with_their_records(tmp_path):
    raw = write_keypoints(tmp_path / "raw", [PERSON], NAMES)
    prepare("coco", raw, tmp_path / "out", keypoints=True, short_side=10)  # half of 20 x 30
    objects = open_source(tmp_path / "out", "train")[0]["objects"]
    np.testing.assert_array_equal(
        objects["keypoints"][0], [[1.75, 2.25, 2], [0, 0, 0], [2.75, 3.25, 1]]
    )
    np.testing.assert_array_equal(objects["annotated_box"], [[1.25, 1.5, 4, 4.5]])


def test_files_without_keypoints_or_with_other_numbers_raise(tmp_path):
    with pytest.raises(ValueError, match="no category in .* has a list of 'keypoints'"):
        CocoFolder(write_coco(tmp_path / "a", [PERSON]), keypoints=True)
    few = annotation(1, [square(2, 3, 6)], keypoints=FLAT[:6])
    source, skipped = (
        CocoFolder(write_keypoints(tmp_path / "b", [few], NAMES), keypoints=True),
        SkipCounts(),
    )
    (record,) = source.records("train", skipped)
    assert not record["objects"]["keypoints"].any() and skipped.changed == {
        "keypoints are not 3 times x, y, visibility: they count as unlabeled": 1
    }
