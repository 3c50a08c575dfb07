"""BSDS500: the regions of each annotator cover the image, wholes and parts side by side."""

import itertools

import numpy as np
import pytest
from raw_folders import truncate, write_bsds, write_ground_truth

from segjax.data.records import validate_record
from segjax.data.sources.bsds500 import Bsds500
from segjax.data.sources.raw import SkipCounts
from segjax.masks import decode_mask


def read(folder, split="train"):
    skipped = SkipCounts()
    return list(Bsds500(folder).records(split, skipped)), skipped


def test_regions_of_all_annotators_become_objects(tmp_path):
    (record,), skipped = read(write_bsds(tmp_path))
    validate_record(record)
    objects = record["objects"]
    np.testing.assert_array_equal(objects["annotator"], [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(objects["id"], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(objects["box"][1], [15, 0, 30, 20])
    np.testing.assert_array_equal(objects["box"][4], [15, 10, 30, 20])
    assert objects["area"].sum() == 2 * 20 * 30
    assert not skipped.images and not skipped.objects


def test_the_layout_of_berkeleys_archive_is_found(tmp_path):
    write_bsds(tmp_path / "BSR" / "BSDS500" / "data", splits=("val", "train", "test"))
    source = Bsds500(tmp_path)
    assert source.splits == ("train", "val", "test")
    assert len(list(source.records("test", SkipCounts()))) == 1


def test_broken_files_are_counted(tmp_path):
    write_bsds(tmp_path)
    truth = tmp_path / "groundTruth" / "train" / "11.mat"
    truncate(truth)
    records, skipped = read(tmp_path)
    assert not records and skipped.images == {"ground truth file is not BSDS500's": 1}
    truth.unlink()
    assert read(tmp_path)[1].images == {"ground truth file is missing": 1}
    truncate(tmp_path / "images" / "train" / "11.jpg")
    assert read(tmp_path)[1].images == {"image is truncated or not an image file": 1}


def test_a_region_map_of_another_size_skips_one_annotator(tmp_path):
    write_bsds(tmp_path)
    maps = [np.ones((20, 30), np.uint16), np.ones((30, 20), np.uint16)]
    write_ground_truth(tmp_path / "groundTruth" / "train" / "11.mat", maps)
    (record,), skipped = read(tmp_path)
    np.testing.assert_array_equal(record["objects"]["annotator"], [0])
    assert skipped.objects == {"region map is of another size than its image": 1}
    assert "annotator 1 (30 x 20 for an image of 20 x 30)" in skipped.examples.popitem()[1][0]


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="raw folder"):
        Bsds500(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match="groundTruth not found"):
        Bsds500(tmp_path)


@pytest.mark.real_data
def test_regions_of_real_annotators_cover_the_photograph(real_data):
    source = Bsds500(real_data("bsds500"))
    assert source.splits == ("train", "val")
    for record in itertools.islice(source.records("val", SkipCounts()), 2):
        validate_record(record)
        height, width, objects = record["height"], record["width"], record["objects"]
        assert 4 <= len(set(objects["annotator"].tolist())) <= 9
        for annotator in np.unique(objects["annotator"]):
            cover = np.zeros((height, width), int)
            for index in np.flatnonzero(objects["annotator"] == annotator):
                cover += decode_mask(objects["rle"][index], height, width)
            assert (cover == 1).all()
