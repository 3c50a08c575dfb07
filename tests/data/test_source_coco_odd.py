"""Odd values in COCO files: each costs only itself, and is counted and named."""

import json
import math

import numpy as np
import pytest
from raw_folders import annotation, square, write_coco

from segjax.data.records import validate_record
from segjax.data.sources.annotations.values import (
    parse_flag,
    parse_key,
    parse_number,
    parse_whole_number,
)
from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.raw import SkipCounts
from segjax.masks import decode_mask, encode_mask

FLAT = square(2, 3, 4)
PAIRS = [[2, 3], [6, 3], [6, 7], [2, 7]]
RUNS = [2 * 20 + 3, 4, 16, 4, 16, 4, 16, 4, 600 - 5 * 20 - 7]


def read(folder, **options):
    skipped = SkipCounts()
    (record,) = CocoFolder(folder, **options).records("train", skipped)
    validate_record(record)
    return record["objects"], skipped


def expected_mask():
    mask = np.zeros((20, 30), bool)
    mask[3:7, 2:6] = True
    return mask


@pytest.mark.parametrize(
    "segmentation",
    [
        [FLAT],
        [PAIRS],
        PAIRS,
        FLAT,
        [list(map(str, FLAT))],
        [FLAT, [5, 5, 6, 6]],
        [[], FLAT],
        [FLAT, [1, 1, math.nan, 2, 3, 3]],
        [FLAT, [1, 1, 2, 2, 3]],
        [FLAT, "polygon"],
        [FLAT, [None] * 6],
        {"size": [20, 30], "counts": encode_mask(expected_mask())},
        {"size": [20.0, "30"], "counts": list(map(float, RUNS))},
        {"size": ["20", "30"], "counts": list(map(str, RUNS))},
    ],
    ids=str,
)
def test_segmentations_with_one_meaning_are_read(tmp_path, segmentation):
    objects, skipped = read(write_coco(tmp_path, [annotation(1, segmentation)]))
    (rle,) = objects["rle"]
    np.testing.assert_array_equal(decode_mask(rle, 20, 30), expected_mask())
    parts = [reason for reason in skipped.changed if reason.startswith("part of a polygon left")]
    has_bad_part = isinstance(segmentation, list) and segmentation[0] in (FLAT, [])
    assert len(parts) == (has_bad_part and len(segmentation) == 2) and not skipped.objects


@pytest.mark.parametrize(
    "fields",
    [
        {"segmentation": {"size": 96, "counts": [600]}},
        {"segmentation": {"size": [20, 30]}},
        {"segmentation": {"size": [20, 30], "counts": {"a": 1}}},
        {"segmentation": {"size": [20, 30], "counts": [1.5, 598.5]}},
        {"segmentation": {"size": [20, 30], "counts": [2**63 - 1, 2**63 - 1, 602]}},
        {"segmentation": 7},
        {"segmentation": json.loads("[" * 400 + "]" * 400)},
        {"segmentation": "[[1, 2]]"},
        {"segmentation": [[[[1, 1], [5, 1], [5, 5]]]]},
        {"segmentation": [{"x": 1, "y": 1}]},
        {"segmentation": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]},
        {"segmentation": [[1, 1, 1e300, 5, 5, 5]]},
        {"image_id": [1]},
        {"image_id": None},
        {"category_id": "cup"},
        {"category_id": [3]},
        {"category_id": True},
        {"category_id": None},
    ],
    ids=str,
)
def test_an_odd_annotation_costs_only_itself(tmp_path, fields):
    odd = annotation(1, [FLAT]) | fields
    objects, skipped = read(write_coco(tmp_path, [odd, annotation(2, [FLAT])]))
    assert objects["id"].tolist() == [2] and sum(skipped.objects.values()) == 1
    (example,) = skipped.examples[next(iter(skipped.objects))]
    assert "annotation 1 of image" in example


@pytest.mark.parametrize(
    ("fields", "name", "value", "reported"),
    [
        ({"area": "16.5"}, "area", 16.5, False),
        ({"area": "large"}, "area", 16, True),
        ({"area": [4]}, "area", 16, True),
        ({"area": math.nan}, "area", 16, True),
        ({"area": -1}, "area", 16, True),
        ({"area": None}, "area", 16, False),
        ({"category_id": "9"}, "category", 1, False),
        ({"category_id": 9.0}, "category", 1, False),
        ({"id": "5"}, "id", 5, False),
        ({"id": "a-5"}, "id", 1, True),
        ({"id": 2**70}, "id", 1, True),
        ({"image_id": "7"}, "area", 16, False),
        ({"image_id": 7.0}, "area", 16, False),
        ({"iscrowd": "0"}, "crowd", False, False),
        ({"iscrowd": "1"}, "crowd", True, False),
        ({"iscrowd": True}, "crowd", True, False),
        ({"iscrowd": 0.0}, "crowd", False, False),
        ({"iscrowd": "no"}, "crowd", False, True),
        ({"iscrowd": 2}, "crowd", False, True),
        ({"iscrowd": [1]}, "crowd", False, True),
    ],
    ids=str,
)
def test_an_odd_value_costs_only_the_value(tmp_path, fields, name, value, reported):
    objects, skipped = read(write_coco(tmp_path, [annotation(1, [FLAT]) | fields]))
    assert objects[name].tolist() == [value] and not skipped.objects
    assert sum(skipped.changed.values()) == reported
    if reported:
        assert "of image 7" in skipped.examples[next(iter(skipped.changed))][0]


def test_a_data_set_of_crowds_alone_is_reported(tmp_path):
    crowds = [annotation(i, [FLAT], iscrowd=1) for i in (1, 2)]
    _, skipped = read(write_coco(tmp_path, crowds))
    (reason,) = skipped.suspicious
    assert reason.startswith("all objects are crowds")
    _, skipped = read(write_coco(tmp_path, [*crowds, annotation(3, [FLAT])]))
    assert not skipped.suspicious


def test_odd_images_and_categories_cost_only_themselves(tmp_path):
    image = {"id": 7, "file_name": "7.jpg", "height": "20", "width": None}
    entries = [image, None, {"file_name": "7.jpg"}, {"id": [2], "file_name": "7.jpg"}, image]
    entries += [{"id": 8}, {"id": 9, "file_name": 5}, {"id": 10, "file_name": "a\0b"}]
    entries += [{"id": 11, "file_name": "x" * 5000}]
    folder = write_coco(tmp_path, [annotation(1, [FLAT])], images=entries)
    path = folder / "instances_train.json"
    content = json.loads(path.read_text())
    content["categories"] += [
        {"id": "cat", "name": "cat"},
        None,
        {"id": 11},
        {"id": "4", "name": 5},
    ]
    path.write_text(json.dumps(content))
    source, skipped = CocoFolder(folder), SkipCounts()
    (record,) = source.records("train", skipped)
    assert record["image_id"] == "7" and source.categories == ("cup", "5", "zebra")
    assert skipped.images == {
        "image entry has no usable id": 3,
        "image id is taken by an earlier image": 1,
        "file name is not the name of a file": 3,
        "image file is missing": 1,
    }
    assert skipped.changed == {
        "annotated width is not a number of pixels: that of the file is used": 1
    }
    assert sum(skipped.suspicious.values()) == 3


def test_categories_of_one_name_are_reported(tmp_path):
    folder = write_coco(tmp_path, [annotation(1, [FLAT])])
    path = folder / "instances_train.json"
    path.write_text(path.read_text().replace("zebra", "cup"))
    _, skipped = read(folder)
    (reason,) = skipped.suspicious
    assert "several categories have one name" in reason
    assert skipped.examples[reason] == ["2 categories 'cup'"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_other_systems_are_read(tmp_path, encoding):
    folder = write_coco(tmp_path, [annotation(1, [FLAT])])
    path = folder / "instances_train.json"
    path.write_text(path.read_text().replace("cup", "tasse à café"), encoding=encoding)
    assert CocoFolder(folder).categories == ("tasse à café", "zebra")


def test_deeply_nested_files_raise_a_clear_error(tmp_path):
    (tmp_path / "instances_train.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        CocoFolder(tmp_path)


def test_values_have_one_meaning_or_none():
    assert [parse_number(v) for v in (" 1.5e2 ", 3, "-.5")] == [150, 3, -0.5]
    for value in ("nan", "inf", "1_000", "1,5", "", True, None, [1], 10**400, math.inf):
        assert parse_number(value) is None
    assert [parse_whole_number(v) for v in ("12", 3.0, "3.0", -4)] == [12, 3, 3, -4]
    for value in (1.5, "1.5", 2**63, "9" * 40, False, None):
        assert parse_whole_number(value) is None
    assert [parse_flag(v) for v in ("False", " TRUE", 1.0)] == [False, True, True]
    for value in (2, "", "yes", None, math.nan, {}):
        assert parse_flag(value) is None
    assert parse_key("07") != parse_key(7) == parse_key("7") == parse_key(7.0)
