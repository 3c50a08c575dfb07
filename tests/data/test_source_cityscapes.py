"""Cityscapes' instance maps: values of objects and groups, and classes without instances."""

import numpy as np
import pytest
from raw_folders import truncate, write_cityscapes

from segjax.data.prepare import prepare
from segjax.data.records import validate_record
from segjax.data.sources.cityscapes import Cityscapes
from segjax.data.sources.raw import SkipCounts
from segjax.masks import decode_mask


def instance_map():
    labels = np.full((20, 40), 7, np.uint16)  # road
    labels[0:5, 0:10] = 24001  # a person
    labels[10:15, 0:10] = 24000  # another person, instance 0
    labels[0:5, 20:30] = 33  # a group of bicycles
    labels[10:15, 20:30] = 26012  # a car in two parts
    labels[18:20, 35:40] = 26012
    labels[16:18, 0:5] = 29  # a caravan, which is not an evaluated class
    return labels


def test_objects_and_groups(tmp_path):
    source, skipped = Cityscapes(write_cityscapes(tmp_path, instance_map())), SkipCounts()
    (record,) = source.records("val", skipped)
    validate_record(record)
    objects = record["objects"]
    names = [source.categories[index] for index in objects["category"]]
    assert list(zip(names, objects["crowd"].tolist(), objects["id"].tolist(), strict=True)) == [
        ("bicycle", True, 33),
        ("person", False, 24000),
        ("person", False, 24001),
        ("car", False, 26012),
    ]
    np.testing.assert_array_equal(decode_mask(objects["rle"][3], 20, 40), instance_map() == 26012)
    assert (
        objects["area"].tolist() == [50, 50, 50, 60] and record["image_id"] == "ulm_000001_000019"
    )
    assert len(source.categories) == 8 and source.category_ids[0] == 24


def test_broken_frames_are_counted_and_there_is_no_test_split(tmp_path):
    write_cityscapes(tmp_path, instance_map(), "test")
    with pytest.raises(FileNotFoundError, match="has no split"):
        Cityscapes(tmp_path)
    write_cityscapes(tmp_path, instance_map(), "train")
    write_cityscapes(tmp_path, instance_map(), "val")
    truncate(next((tmp_path / "leftImg8bit" / "val" / "ulm").iterdir()))
    source, skipped = Cityscapes(tmp_path), SkipCounts()
    assert source.splits == ("train", "val")
    assert not list(source.records("val", skipped)) and sum(skipped.images.values()) == 1
    report = prepare("cityscapes", tmp_path, tmp_path / "out", splits="train")
    assert report.splits["train"].objects == 4
    with pytest.raises(FileNotFoundError, match="Cityscapes' fine annotations not found"):
        Cityscapes(tmp_path / "out")
