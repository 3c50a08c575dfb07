"""Pictures in folders of classes, from raw files to labelled examples."""

import numpy as np
import pytest
from PIL import Image

from segjax.data.builder import open_source, read_info
from segjax.data.labels import label_of
from segjax.data.prepare import prepare
from segjax.data.sources.class_folders import ClassFolders


def write(folder, *names):
    for value, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9 + value, 12, 3), 40 * value, np.uint8)).save(path)


def test_folders_become_labelled_records_in_order(tmp_path):
    write(tmp_path / "raw" / "train", "owl/b.png", "owl/a.jpg", "asp/c.png")
    write(tmp_path / "raw" / "val", "owl/d.png")
    (tmp_path / "raw" / "train" / "asp" / "broken.png").write_bytes(b"no picture")
    report = prepare("class_folders", tmp_path / "raw", tmp_path / "data")
    assert report.splits["train"].skipped.images == {"image is truncated or not a picture": 1}
    info = read_info(tmp_path / "data")
    assert (info.categories, info.optional) == (("asp", "owl"), ("label",))
    train, val = (list(open_source(tmp_path / "data", split)) for split in ("train", "val"))
    assert [(r["image_id"], label_of(r, "record")) for r in train] == [
        ("asp/c.png", 0),
        ("owl/a.jpg", 1),
        ("owl/b.png", 1),
    ]
    assert [(r["image_id"], r["label"], r["height"]) for r in val] == [("owl/d.png", 1, 9)]
    assert label_of(val[0], "largest") is None


def test_without_splits_there_is_one(tmp_path):
    write(tmp_path, "owl/a.png", "asp/b.png")
    assert ClassFolders(tmp_path).splits == ("train",)


def test_a_folder_of_something_else_is_named(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected \[<split>/\]<class>/\*.jpg; it holds \['notes'\]"):
        ClassFolders(tmp_path)
