"""Prepared folders: records are read back unchanged, in order, from any process."""

import json
import pathlib
import pickle
import shutil
import subprocess
import sys

import grain
import numpy as np
import pytest
from raw_folders import truncate, write_bsds, write_label_maps

from segjax.data import writer
from segjax.data.prepare import prepare
from segjax.data.records import stack_objects, validate_record
from segjax.data.sources.label_maps import LabelMaps
from segjax.data.sources.raw import SkipCounts
from segjax.data.storage import PreparedInfo, RecordSource, open_source, read_info
from segjax.data.synthetic.scenes import SyntheticScenes
from segjax.data.writer import write_info, write_records
from segjax.images.encoding import encode_png
from segjax.masks import compute_mask_box, encode_mask


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("builder")
    write_label_maps(folder / "raw", count=3)
    prepare("label_maps", folder / "raw", folder / "out")
    return folder


def assert_same_record(left, right):
    assert {k: v for k, v in left.items() if k != "objects"} == {
        k: v for k, v in right.items() if k != "objects"
    }
    assert left["objects"].keys() == right["objects"].keys()
    assert left["objects"]["rle"] == right["objects"]["rle"]
    for name, value in left["objects"].items():
        np.testing.assert_array_equal(value, right["objects"][name])
        assert name == "rle" or value.dtype == right["objects"][name].dtype


def test_records_are_read_back_unchanged_and_in_order(prepared):
    source = open_source(prepared / "out", "train")
    raw = list(LabelMaps(prepared / "raw").records("train", SkipCounts()))
    assert len(source) == len(raw) == 3
    for index in range(3):
        validate_record(source[index])
        assert_same_record(source[index], raw[index])
    assert source[-1]["image_id"] == "a2" and source[np.int64(1)]["image_id"] == "a1"
    with pytest.raises(IndexError, match="record 3 of 3"):
        source[3]


def test_optional_fields_and_images_without_objects_are_read_back(tmp_path):
    mask = np.ones((6, 5), bool)
    row = {
        "id": 2**40,
        "box": compute_mask_box(mask),
        "category": 3,
        "crowd": True,
        "area": 30.0,
        "rle": encode_mask(mask),
    }
    extra = {
        "keypoints": np.arange(6).reshape(2, 3),
        "annotator": 4,
        "predicted_iou": 0.5,
        "stability": 0.25,
    }
    names = tuple(extra)
    base = {"image": encode_png(np.zeros((6, 5, 3), np.uint8)), "height": 6, "width": 5, "label": 7}
    full = base | {
        "image_id": "f\u00fcll",
        "objects": stack_objects([row | extra, row | extra], names),
    }
    empty = base | {"image_id": "empty", "objects": stack_objects([], names)}
    optional = (*names, "label")
    write_records(tmp_path, {"train": lambda: iter([full, empty])}, optional=optional, keypoints=2)
    write_info(
        tmp_path,
        PreparedInfo("test", {"train": {"images": 2, "objects": 2}}, ("x",), (0,), optional, 2),
    )
    source = open_source(tmp_path, "train")
    assert_same_record(source[0], full)
    assert source[1]["objects"]["box"].shape == (0, 4) and source[1]["label"] == 7
    validate_record(source[1])


def test_a_source_pickles_after_reading_and_moves_with_its_folder(prepared, tmp_path):
    source = open_source(prepared / "out", "train")
    assert source[0]["image_id"] == "a0"
    again = pickle.loads(pickle.dumps(source))
    assert_same_record(again[2], source[2])
    moved = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", prepared / "out", moved], check=True)
    assert_same_record(open_source(moved, "train")[1], source[1])


def test_grain_worker_processes_read_the_source(prepared):
    source = open_source(prepared / "out", "train")
    assert source[0]["image_id"] == "a0"
    dataset = grain.MapDataset.source(source).map(image_id).to_iter_dataset()
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=1))
    assert list(dataset) == ["a0", "a1", "a2"]


def image_id(record):
    return record["image_id"]


def test_info_names_source_splits_and_categories(prepared):
    info = read_info(prepared / "out")
    assert info.source == "label_maps" and info.categories == ("object",)
    assert info.splits == {"train": {"images": 3, "objects": 6}}


def test_annotators_are_stored(tmp_path):
    prepare("bsds500", write_bsds(tmp_path / "raw"), tmp_path / "out")
    source = open_source(tmp_path / "out", "val")
    np.testing.assert_array_equal(source[0]["objects"]["annotator"], [0, 0, 1, 1, 1])
    assert read_info(tmp_path / "out").optional == ("annotator",)


def test_unprepared_folders_and_unknown_splits_are_named(prepared, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="not prepared data: it has no info.json.*segjax prepare"
    ):
        open_source(tmp_path, "train")
    with pytest.raises(ValueError, match="no split 'val'; it has train"):
        open_source(prepared / "out", "val")


def test_neither_tensorflow_nor_jax_is_imported_and_nothing_is_printed(prepared, tmp_path):
    code = (
        "import sys\n"
        "from segjax.data.prepare import prepare\n"
        "from segjax.data.storage import open_source\n"
        f"prepare('label_maps', {str(prepared / 'raw')!r}, {str(tmp_path / 'out')!r})\n"
        f"open_source({str(tmp_path / 'out')!r}, 'train')[0]\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules), 'heavy imports'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_examples_are_written_one_by_one_to_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD_SIZE", 3)
    monkeypatch.setattr(writer, "_WRITE_SIZE", 2)
    scenes = SyntheticScenes("heldout", 8, size=32)
    written = []

    def records():
        for index in range(8):
            written.append(len(list(tmp_path.glob("*.array_record*"))))
            yield scenes[index] | {"image": encode_png(scenes[index]["image"])}

    write_records(tmp_path, {"train": records})
    write_info(tmp_path, PreparedInfo("test", {"train": {"images": 8, "objects": 0}}, (), ()))
    assert len(list(tmp_path.glob("*.array_record*"))) == 3
    assert written[0] == 0 and written[6] == 2  # examples are not collected first
    source = open_source(tmp_path, "train")
    assert [source[i]["image_id"] for i in range(8)] == [scenes[i]["image_id"] for i in range(8)]


@pytest.fixture
def folder(prepared, tmp_path):
    """Returns a copy of the prepared folder, to be damaged."""
    return pathlib.Path(shutil.copytree(prepared / "out", tmp_path / "copy"))


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


TEXT = "tensorflow_datasets.core.features.text_feature.Text"
INSIDE = json.dumps({"type": "evil_features.Evil", "content": {}})


@pytest.mark.parametrize(
    "old, new",
    [
        (f'"{TEXT}"', '"evil_features.Evil"'),
        (f'"pythonClassName": "{TEXT}"', '"python_class_name": "evil_features.Evil"'),
        (f'"{TEXT}"', r'"evil_\u0066eatures.Evil"'),
        (f'"{TEXT}",', f'"{TEXT}", "jsonFeature": {{"json": {json.dumps(INSIDE)}}},'),
        (f'"{TEXT}",', f'"{TEXT}", "content": {INSIDE},'),
        (f'"{TEXT}"', '"tensorflow_datasets.scripts.evil.Evil"'),
    ],
)
def test_features_of_other_modules_are_refused_before_they_are_imported(
    folder, tmp_path, monkeypatch, old, new
):
    (tmp_path / "evil_features.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    replace(folder / "features.json", old, new)
    with pytest.raises(ValueError, match=r"features.json names the class .*Evil.*is refused"):
        open_source(folder, "train")
    # Worker processes open the folder again.
    with pytest.raises(ValueError, match="is refused"):
        RecordSource(folder, "train", read_info(folder))[0]
    assert "evil_features" not in sys.modules and not (tmp_path / "ran").exists()


def test_features_in_the_description_of_the_dataset_are_checked_too(folder):
    feature = '"features": {"pythonClassName": "evil_features.Evil"}, "name"'
    replace(folder / "dataset_info.json", '"name"', feature)
    with pytest.raises(ValueError, match="dataset_info.json names the class 'evil_features.Evil'"):
        open_source(folder, "train")


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "info.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "5", "[" * 100_000, "\xff"])
def test_damaged_metadata_raises_one_sentence_about_the_file(folder, name, text):
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"{name}|{folder}") as caught:
        open_source(folder, "train")
    assert "prepare" in str(caught.value) and "\n" not in str(caught.value)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        open_source(folder, "train")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"splits": [1]}, "field 'splits' is of another type"),
        ({"splits": {"train": 5}}, "field 'splits' is of another type"),
        ({"splits": {"train": {"images": "5", "objects": 1}}}, "no numbers of images"),
        ({"splits": {"train": {"images": 400, "objects": 1}}}, "has 3 images, and .* says 400"),
        ({"categories": [1], "category_ids": [0]}, "field 'categories' is of another type"),
        ({"categories": ["a", "b"]}, "differ in number"),
        ({"keypoints": True}, "field 'keypoints' is of another type"),
        ({"color": 1}, "unknown field 'color'"),
    ],
)
def test_fields_of_other_types_raise(folder, change, message):
    content = json.loads((folder / "info.json").read_text()) | change
    (folder / "info.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        open_source(folder, "train")


@pytest.mark.parametrize("name", ["../other", "/etc/x", "a\\b"])
def test_files_of_other_folders_are_not_opened(folder, name):
    content = json.loads((folder / "dataset_info.json").read_text())
    content["splits"][0]["filepathTemplate"] = name
    (folder / "dataset_info.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is not the name of a split or of its files"):
        open_source(folder, "train")


@pytest.mark.parametrize("keep", [None, 0, 0.3])
def test_damaged_record_files_name_the_record(folder, keep):
    (path,) = folder.glob("*array_record*")
    path.unlink() if keep is None else truncate(path, keep)
    with pytest.raises(ValueError, match="record 0 of .*copy, split 'train', cannot be read"):
        open_source(folder, "train")[0]


def test_parts_of_splits_are_opened_like_splits(prepared):
    first = open_source(prepared / "out", "train[:67%]")
    rest = open_source(prepared / "out", "train[67%:]")
    assert [record["image_id"] for record in first] == ["a0", "a1"]
    assert [record["image_id"] for record in rest] == ["a2"]
    assert first.info.splits["train[:67%]"] == {"images": 2}
    message = r"has no split .*; it has train\. .*train\[:80%\].*held_out=0"
    for split in ("test", "train[", "train[:x]", "test[:50%]", ""):
        with pytest.raises(ValueError, match=message):
            open_source(prepared / "out", split)
    with pytest.raises(ValueError, match=r"'train\[:0%\]' of .* is empty"):
        open_source(prepared / "out", "train[:0%]")
