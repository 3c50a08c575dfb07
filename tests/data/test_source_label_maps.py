"""Folders of label maps and Kaggle's layout: the same masks, and counts of broken files."""

import numpy as np
import pytest
from PIL import Image
from raw_folders import (
    png_of_zero_width,
    truncate,
    two_labels,
    write_image,
    write_kaggle,
    write_label_maps,
)

from segjax.data.records import validate_record
from segjax.data.sources.label_maps import LabelMaps
from segjax.data.sources.raw import SkipCounts
from segjax.masks import decode_mask


def read(folder, split="train"):
    skipped = SkipCounts()
    return list(LabelMaps(folder).records(split, skipped)), skipped


def test_each_label_is_one_object_with_its_parts(tmp_path):
    (first, second), skipped = read(write_label_maps(tmp_path))
    validate_record(first)
    objects = first["objects"]
    assert (first["image_id"], second["image_id"]) == ("a0", "a1")
    np.testing.assert_array_equal(objects["id"], [1, 700])
    np.testing.assert_array_equal(objects["box"], [[3, 2, 9, 6], [0, 10, 30, 20]])
    np.testing.assert_array_equal(objects["area"], [24, 33])
    np.testing.assert_array_equal(decode_mask(objects["rle"][1], 20, 30), two_labels() == 700)
    assert not skipped.images and not skipped.objects


def test_kaggles_layout_gives_the_same_masks(tmp_path):
    maps, _ = read(write_label_maps(tmp_path / "maps"))
    kaggle, skipped = read(write_kaggle(tmp_path / "kaggle"))
    assert [record["image_id"] for record in kaggle] == ["k0", "k1"]
    assert kaggle[0]["objects"]["rle"] == maps[0]["objects"]["rle"]
    assert not skipped.objects


def test_splits_are_folders_with_training_first(tmp_path):
    write_label_maps(tmp_path / "stage1_test")
    write_kaggle(tmp_path / "stage1_train")
    (tmp_path / "notes").mkdir()
    assert LabelMaps(tmp_path).splits == ("stage1_train", "stage1_test")
    with pytest.raises(ValueError, match="no split 'val'; it has stage1_train, stage1_test"):
        list(LabelMaps(tmp_path).records("val", SkipCounts()))


def test_missing_folders_and_other_layouts_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="raw folder not found: .*nowhere"):
        LabelMaps(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"no label maps under .*labels/.*it holds \['photos'\]"
    ):
        LabelMaps(tmp_path)


def break_map_size(folder):
    Image.fromarray(two_labels(21, 30)).save(folder / "labels" / "a0.png")


BREAKAGES = {
    "label map is missing": lambda folder: (folder / "labels" / "a0.png").unlink(),
    "label map is of another size than its image": break_map_size,
    "label map is truncated or not an image file": lambda folder: truncate(
        folder / "labels" / "a0.png"
    ),
    "label map is not a single-channel image": lambda folder: write_image(
        folder / "labels" / "a0.png"
    ),
    "image is truncated or not an image file": lambda folder: truncate(
        folder / "images" / "a0.png"
    ),
    "image has zero size": lambda folder: (folder / "images" / "a0.png").write_bytes(
        png_of_zero_width()
    ),
}


@pytest.mark.parametrize("reason", BREAKAGES)
def test_broken_files_are_counted_and_named_and_the_rest_is_read(tmp_path, reason):
    BREAKAGES[reason](write_label_maps(tmp_path))
    records, skipped = read(tmp_path)
    assert [record["image_id"] for record in records] == ["a1"]
    assert skipped.images == {reason: 1}
    assert "a0.png" in skipped.examples[reason][0]


def test_an_empty_image_file_has_zero_size(tmp_path):
    write_label_maps(tmp_path)
    (tmp_path / "images" / "a1.png").write_bytes(b"")
    assert read(tmp_path)[1].images == {"image has zero size": 1}


def test_broken_masks_of_kaggles_layout_skip_only_one_object(tmp_path):
    write_kaggle(tmp_path, count=1)
    masks = tmp_path / "k0" / "masks"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(masks / "empty.png")
    Image.fromarray(np.ones((5, 30), np.uint8)).save(masks / "small.png")
    (record,), skipped = read(tmp_path)
    assert len(record["objects"]["rle"]) == 2
    assert skipped.objects == {"mask is empty": 1, "mask file is of another size than its image": 1}


def test_other_formats_are_stored_as_png(tmp_path):
    write_label_maps(tmp_path, count=1)
    bmp = (tmp_path / "images" / "a0.png").with_suffix(".bmp")
    with Image.open(tmp_path / "images" / "a0.png") as opened:
        opened.save(bmp)
    (tmp_path / "images" / "a0.png").unlink()
    (record,), _ = read(tmp_path)
    assert record["image"].startswith(b"\x89PNG")


@pytest.mark.real_data
def test_nuclei_agree_with_their_index(real_data):
    import itertools
    import json

    folder = real_data("dsb2018_nuclei")
    index = {entry["file"]: entry for entry in json.loads((folder / "index.json").read_text())}
    source = LabelMaps(folder)
    assert source.splits == ("stage1_train", "stage1_test")
    for record in itertools.islice(source.records("stage1_train", SkipCounts()), 5):
        validate_record(record)
        entry = index[record["image_id"] + ".png"]
        assert (record["height"], record["width"]) == (entry["h"], entry["w"])
        assert len(record["objects"]["rle"]) == entry["n"]
