"""Folders of images without objects, in each layout."""

import numpy as np
import pytest
from raw_folders import truncate, write_image

from segjax.data.prepare import prepare
from segjax.data.records import validate_record
from segjax.data.sources.images import ImageFolders
from segjax.data.sources.raw import SkipCounts
from segjax.data.storage import open_source, read_info


def write(folder, *names):
    for seed, name in enumerate(names):
        write_image(folder / name, seed=seed)
    return folder


def ids(source, split):
    return [record["image_id"] for record in source.records(split, SkipCounts())]


def test_imagenets_layout_has_labels_by_class(tmp_path):
    raw = write(
        tmp_path / "raw",
        "train/n02/b.JPEG",
        "train/n01/a.JPEG",
        "train/n01/c.JPEG",
        "val/n02/d.JPEG",
    )
    truncate(write_image(raw / "train" / "n02" / "broken.JPEG"))
    report = prepare("images", raw, tmp_path / "out")
    assert (
        str(report).splitlines()[1].startswith("  train: 3 images, ")
    )  # without a word about objects
    assert report.splits["train"].skipped.images == {"image is truncated or not an image file": 1}
    source, val = (open_source(tmp_path / "out", split) for split in ("train", "val"))
    found = [(record["image_id"], record["label"]) for record in (source[i] for i in range(3))]
    assert found == [("n01/a.JPEG", 0), ("n01/c.JPEG", 0), ("n02/b.JPEG", 1)]
    assert val[0]["label"] == 1 and source.info.categories == ("n01", "n02")
    validate_record(source[0])
    assert source[0]["objects"]["box"].shape == (0, 4)


def test_a_split_without_classes_has_no_labels(tmp_path):
    write(tmp_path / "raw", "train/n01/a.jpg", "train/n02/b.jpg", "test/c.jpg")
    prepare("images", tmp_path / "raw", tmp_path / "out")
    assert open_source(tmp_path / "out", "train")[1]["label"] == 1
    assert "label" not in open_source(tmp_path / "out", "test")[0]


def test_splits_without_class_folders(tmp_path):
    source = ImageFolders(write(tmp_path, "val2017/a.jpg", "train2017/b.jpg"))
    assert source.splits == ("train2017", "val2017") and source.optional == () == source.categories
    assert ids(source, "val2017") == ["a.jpg"]


@pytest.mark.parametrize("layout", ["{}.jpg", "train/{}.jpg", "cats/{}.jpg", "train/cats/{}.jpg"])
def test_a_share_is_held_out_without_an_evaluation_split(tmp_path, layout):
    raw = write(tmp_path / "raw", *(layout.format(i) for i in range(20)))
    source = ImageFolders(raw, held_out=0.1)
    assert source.splits == ("train", "val")
    train, val = ids(source, "train"), ids(source, "val")
    assert len(val) == 2 and sorted(train + val) == sorted({*train, *val}) and len(train) == 18
    assert ids(ImageFolders(raw, held_out=0.1), "val") == val
    more = ImageFolders(write(raw, *(layout.format(f"more{i}") for i in range(20))), held_out=0.1)
    assert len(ids(more, "val")) == 4
    assert ImageFolders(raw, held_out=0).splits == ("train",)
    assert ("label" in source.optional) == ("cats" in layout)


def test_folders_without_a_split_name_are_classes(tmp_path):
    source = ImageFolders(
        write(tmp_path, "contrail/a.jpg", "cirrus/b.jpg", "cirrus/c.jpg"), held_out=0
    )
    assert source.categories == ("cirrus", "contrail") and source.splits == ("train",)


def test_a_single_evaluation_split_is_not_divided(tmp_path):
    assert ImageFolders(write(tmp_path, "val/a.jpg", "val/b.jpg")).splits == ("val",)


def test_invalid_folders_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="raw folder not found"):
        ImageFolders(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no images under .*expected \[<split>/\]"):
        ImageFolders(tmp_path)
    with pytest.raises(ValueError, match="held_out is the share"):
        ImageFolders(tmp_path, held_out=2)
    with pytest.raises(ValueError, match="has the splits train, val, and held_out divides"):
        ImageFolders(write(tmp_path / "both", "train/a.jpg", "val/b.jpg"), held_out=0.1)
    with pytest.raises(ValueError, match="has one image.*held_out=0"):
        ImageFolders(write(tmp_path / "one", "a.jpg"))
    with pytest.raises(ValueError, match="holds images and the splits train"):
        ImageFolders(write(tmp_path / "mixed", "a.jpg", "train/b.jpg"))
    with pytest.raises(
        ValueError, match=r"holds images \(a.jpg, ...\) and folders of images \(n01, ...\)"
    ):
        ImageFolders(write(tmp_path / "loose", "train/a.jpg", "train/n01/b.jpg"))


def test_short_side_and_option_come_from_the_command_line(tmp_path, capsys):
    from segjax.cli import main

    raw = write(tmp_path / "raw", *(f"{i}.jpg" for i in range(4)))
    arguments = [
        "prepare",
        "images",
        str(raw),
        "--out",
        str(tmp_path / "out"),
        "--short-side",
        "10",
    ]
    assert main([*arguments, "--option", "held_out=0.5"]) == 0
    assert "train: 2 images" in capsys.readouterr().out
    record = open_source(tmp_path / "out", "val")[0]
    assert (record["height"], record["width"]) == (10, 15) and record["image"][:2] == b"\xff\xd8"
    assert read_info(tmp_path / "out").splits["val"] == {"images": 2, "objects": 0}
    assert np.asarray(record["objects"]["id"]).size == 0
