"""File names in COCO files that were written on another machine, and single files as sources."""

import json
import unicodedata

import pytest
from raw_folders import annotation, square, write_coco, write_image, write_lvis

from segjax.data.prepare import prepare
from segjax.data.sources.annotations.find_images import ImageFinder
from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.lvis import LvisFolder
from segjax.data.sources.raw import SkipCounts, UnusableError

ACCENTS = "caf\u00e9.jpg"
ELSEWHERE = "image found by its name elsewhere"


def find(folder, name, **options):
    counts = SkipCounts()
    finder = ImageFinder([folder / "images", folder], folder, **options)
    path = finder.find([name], counts)
    return path.relative_to(folder).as_posix(), bool(counts.changed.get(ELSEWHERE))


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("images/a.jpg", "a.jpg"),
        ("images/sub/a.jpg", "sub/a.jpg"),
        ("images/sub/a.jpg", "sub/../sub/a.jpg"),
    ],
)
def test_the_exact_path_comes_first(tmp_path, stored, name):
    write_image(tmp_path / stored)
    write_image(tmp_path / "other" / "a.jpg")
    assert find(tmp_path, name) == (stored, False)


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("images/sub/a.jpg", "sub\\a.jpg"),
        ("images/a.jpg", "C:\\Users\\me\\images\\a.jpg"),
        ("images/a.jpg", "/home/me/photos/a.jpg"),
        ("images/a.jpg", "../../photos/a.jpg"),
        ("images/a.jpg", "http://example.com/photos/a.jpg"),
        ("images/a.jpg", "https://example.com/photos/a.jpg?size=large#top"),
        ("images/a.jpg", " a.jpg "),
        ("images/a b.jpg", "a%20b.jpg"),
        ("images/a%20b.jpg", "a b.jpg"),
        ("images/a.JPG", "a.jpg"),
        ("images/a.jpg", "A.JPG"),
        (f"images/{ACCENTS}", unicodedata.normalize("NFD", ACCENTS)),
        (f"images/{unicodedata.normalize('NFD', ACCENTS)}", ACCENTS),
        ("photos/day/a.jpg", "a.jpg"),
        ("one/day/a.jpg", "/mnt/one/day/a.jpg"),
    ],
)
def test_a_unique_file_of_the_same_name_is_found_and_reported(tmp_path, stored, name):
    write_image(tmp_path / stored)
    write_image(tmp_path / "elsewhere" / "night" / "b.jpg")
    if stored.startswith("one/"):
        write_image(tmp_path / "two" / "day" / "a.jpg")
    assert find(tmp_path, name) == (stored, True)


def test_files_outside_are_read_with_the_option_alone(tmp_path):
    secret = write_image(tmp_path / "secret.jpg")
    (tmp_path / "raw").mkdir()
    for name in (str(secret), "../secret.jpg"):
        with pytest.raises(UnusableError, match="leads outside the raw folder"):
            find(tmp_path / "raw", name)
        finder = ImageFinder([tmp_path / "raw"], tmp_path / "raw", outside=True)
        assert finder.find([name], SkipCounts()) == secret


def test_missing_and_ambiguous_files_are_named_with_the_folders(tmp_path):
    write_image(tmp_path / "one" / "a.jpg")
    with pytest.raises(UnusableError, match=f"'b.jpg' in {tmp_path / 'images'}, {tmp_path}: image"):
        find(tmp_path, "b.jpg")
    write_image(tmp_path / "two" / "a.jpg")
    with pytest.raises(UnusableError, match="several files have the name of the image"):
        find(tmp_path, "a.jpg")


def test_a_folder_from_another_system_is_prepared(tmp_path):
    entries = [{"id": 7, "file_name": "D:\\data\\images\\7.JPG", "height": 20, "width": 30}]
    write_coco(tmp_path / "raw", [annotation(1, [square(2, 3, 4)])], images=entries)
    report = prepare("coco", tmp_path / "raw", tmp_path / "out")
    assert report.splits["train"].images == 1
    assert report.splits["train"].skipped.changed == {ELSEWHERE: 1}


def test_roboflow_splits_do_not_take_images_of_each_other(tmp_path):
    folder = write_coco(tmp_path / "valid", [annotation(1, [square(2, 3, 4)])])
    (folder / "instances_train.json").rename(folder / "_annotations.coco.json")
    (folder / "images").rename(tmp_path / "train")
    skipped = SkipCounts()
    assert not list(CocoFolder(tmp_path).records("valid", skipped))
    assert skipped.images == {"image file is missing": 1}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("result.json", "result"),
        ("annotations/instances_default.json", "default"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_a_single_file_is_a_source(tmp_path, name, split):
    write_coco(tmp_path, [annotation(1, [square(2, 3, 4)])])
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (tmp_path / "instances_train.json").rename(path)
    if split == "train":
        (tmp_path / "images" / "7.jpg").rename(path.parent / "7.jpg")
    (tmp_path / "package.json").write_text(json.dumps({"name": "no annotations"}))
    source, skipped = CocoFolder(path), SkipCounts()
    assert source.splits == (split,)
    (record,) = source.records(split, skipped)
    assert record["image_id"] == "7" and not skipped.changed


def test_a_single_file_of_lvis_is_a_source(tmp_path):
    write_lvis(tmp_path, [annotation(1, [square(2, 3, 4)])])
    source = LvisFolder(tmp_path / "lvis_v1_val.json")
    assert source.splits == ("val",)
    assert len(list(source.records("val", SkipCounts()))) == 1


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="annotation file not found: .*none.json"):
        CocoFolder(tmp_path / "none.json")
