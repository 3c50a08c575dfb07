"""`prepare`: atomic folders, counts in the report, and errors for bad input."""

import json

import numpy as np
import pytest
from raw_folders import annotation, square, truncate, write_bsds, write_coco, write_label_maps

from segjax.data import threads
from segjax.data.prepare import EmptyDatasetError, prepare
from segjax.data.records import validate_record
from segjax.data.sources.coco import CocoFolder
from segjax.data.storage import open_source, read_info
from segjax.images.encoding import encode_png
from segjax.masks import RecordError
from segjax.registry import SOURCES


def test_the_report_counts_and_names_skipped_images(tmp_path):
    truncate(write_label_maps(tmp_path / "raw", count=3) / "images" / "a1.png")
    report = prepare("nuclei", tmp_path / "raw", tmp_path / "out")
    split = report.splits["train"]
    assert (split.images, split.objects) == (2, 4)
    assert split.skipped.images == {"image is truncated or not an image file": 1}
    assert "train: 2 images, 4 objects" in str(report)
    assert "skipped 1 images: image is truncated or not an image file, such as" in str(
        report
    ) and "a1.png" in str(report)
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert saved["splits"]["train"]["skipped"]["images"] == split.skipped.images
    assert read_info(tmp_path / "out").categories == ("nucleus",)


def test_splits_and_limit_choose_the_written_images(tmp_path):
    write_bsds(tmp_path / "raw")
    prepare("bsds500", tmp_path / "raw", tmp_path / "val", splits="val")
    assert list(read_info(tmp_path / "val").splits) == ["val"]
    write_label_maps(tmp_path / "maps", count=3)
    report = prepare("label_maps", tmp_path / "maps", tmp_path / "two", limit=2)
    assert report.splits["train"].images == len(open_source(tmp_path / "two", "train")) == 2
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        prepare("bsds500", tmp_path / "raw", tmp_path / "none", splits=["train", "test"])
    with pytest.raises(ValueError, match="limit is 0"):
        prepare("bsds500", tmp_path / "raw", tmp_path / "none", limit=0)
    assert not (tmp_path / "none").exists()


def test_threads_count_like_a_single_one(tmp_path, monkeypatch):
    folder = write_label_maps(tmp_path / "raw", count=12)
    for number in range(0, 12, 3):
        truncate(folder / "images" / f"a{number}.png")
    reports = []
    for cores in (1, 4):
        monkeypatch.setattr(threads, "count_usable_cores", lambda cores=cores: cores)
        for limit in (None, 4):
            report = prepare(
                "label_maps", folder, tmp_path / "out", short_side=4, limit=limit, overwrite=True
            )
            reports.append((report.splits["train"].images, report.splits["train"].skipped))
    assert reports[0] == reports[2] and reports[1] == reports[3]
    assert reports[0][0] == 8 and reports[0][1].images == {
        "image is truncated or not an image file": 4
    }
    assert reports[1][0] == 4 and reports[1][1].images == {
        "image is truncated or not an image file": 1
    }


def test_an_unknown_source_lists_the_nearest_and_all(tmp_path):
    with pytest.raises(
        ValueError, match="unknown data source 'nucli'; nearest: nuclei.*coco, images, label"
    ):
        prepare("nucli", tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="'coco' needs the folder of its raw files"):
        prepare("coco", None, tmp_path / "out")


def test_a_missing_raw_folder_is_named(tmp_path):
    for name in ("coco", "label_maps", "nuclei", "bsds500"):
        with pytest.raises(FileNotFoundError, match="raw folder not found: .*nowhere"):
            prepare(name, tmp_path / "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_dataset_raises_with_the_reasons_and_leaves_nothing(tmp_path):
    folder = write_label_maps(tmp_path / "raw", count=2)
    for path in (folder / "images").iterdir():
        truncate(path)
    with pytest.raises(
        EmptyDatasetError, match="'train' has no usable image: 2 image is truncated"
    ):
        prepare("label_maps", folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_images_without_objects_are_kept_on_request(tmp_path):
    entries = [{"id": i, "file_name": "7.jpg", "height": 20, "width": 30} for i in (7, 8)]
    write_coco(tmp_path / "raw", [annotation(1, [square(2, 2, 5)])], images=entries)
    report = prepare("coco", tmp_path / "raw", tmp_path / "some")
    assert report.splits["train"].skipped.images == {"image has no objects": 1}
    prepare("coco", tmp_path / "raw", tmp_path / "all", keep_empty=True)
    source = open_source(tmp_path / "all", "train")
    assert len(source) == 2 and source[1]["objects"]["box"].shape == (0, 4)
    validate_record(source[1])


def test_an_image_id_is_used_only_once(tmp_path):
    write_coco(
        tmp_path / "raw",
        [annotation(1, [square(2, 2, 5)])],
        images=2 * [{"id": 7, "file_name": "7.jpg"}],
    )
    report = prepare("coco", tmp_path / "raw", tmp_path / "out")
    assert report.splits["train"].images == 1
    assert report.splits["train"].skipped.images == {"image id is taken by an earlier image": 1}


def test_earlier_data_is_replaced_only_on_request(tmp_path):
    write_label_maps(tmp_path / "raw", count=2)
    prepare("label_maps", tmp_path / "raw", tmp_path / "out", limit=1)
    with pytest.raises(FileExistsError, match="already holds prepared data; pass overwrite=True"):
        prepare("label_maps", tmp_path / "raw", tmp_path / "out")
    assert len(open_source(tmp_path / "out", "train")) == 1
    prepare("label_maps", tmp_path / "raw", tmp_path / "out", overwrite=True)
    assert len(open_source(tmp_path / "out", "train")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_a_folder_that_is_not_prepared_data_is_never_replaced(tmp_path):
    write_label_maps(tmp_path / "raw")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="not prepared data, so it is not touched"):
        prepare("label_maps", tmp_path / "raw", tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()
    (tmp_path / "fresh").mkdir()
    assert prepare("label_maps", tmp_path / "raw", tmp_path / "fresh").splits["train"].images == 2


def test_an_interrupted_preparation_leaves_the_earlier_data(tmp_path, monkeypatch):
    write_coco(tmp_path / "raw", [annotation(1, [square(2, 2, 5)])])
    prepare("coco", tmp_path / "raw", tmp_path / "out")
    records = CocoFolder.records

    def interrupted(self, split, skipped):
        yield from records(self, split, skipped)
        raise KeyboardInterrupt

    monkeypatch.setattr(CocoFolder, "records", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("coco", tmp_path / "raw", tmp_path / "out", overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        prepare("coco", tmp_path / "raw", tmp_path / "other")
    assert len(open_source(tmp_path / "out", "train")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_records_that_break_the_schema_are_skipped_with_the_field(tmp_path, monkeypatch):
    class Broken(CocoFolder):
        def records(self, split, skipped):
            for record in super().records(split, skipped):
                yield record | {"height": 99, "image_id": "wrong"}
                yield record

    monkeypatch.setitem(SOURCES.entries, "coco", Broken)
    write_coco(tmp_path / "raw", [annotation(1, [square(2, 2, 5)])])
    report = prepare("coco", tmp_path / "raw", tmp_path / "out")
    assert report.splits["train"].images == 1
    assert report.splits["train"].skipped.images == {"image: expected height x width = 99 x 30": 1}


def test_short_side_shrinks_the_written_images(tmp_path):
    write_label_maps(tmp_path / "raw", count=1)
    prepare("label_maps", tmp_path / "raw", tmp_path / "out", short_side=10)
    record = open_source(tmp_path / "out", "train")[0]
    validate_record(record)
    assert (record["height"], record["width"]) == (10, 15)


def test_synthetic_scenes_are_written_without_a_raw_folder(tmp_path):
    from segjax.data.synthetic.scenes import SyntheticScenes

    report = prepare("synthetic", None, tmp_path / "out", splits="heldout", limit=3, size=64)
    source = open_source(tmp_path / "out", "heldout")
    scene = SyntheticScenes("heldout", 3, size=64)[2]
    assert report.splits["heldout"].images == 3
    assert (
        source[2]["image"] == encode_png(scene["image"])
        and source[2]["objects"]["rle"] == scene["objects"]["rle"]
    )
    assert len(read_info(tmp_path / "out").categories) > int(
        np.max(source[2]["objects"]["category"])
    )
    with pytest.raises(ValueError, match="read no folder"):
        prepare("synthetic", tmp_path, tmp_path / "again")


def test_the_reason_of_a_record_error_names_no_record():
    error = RecordError("record 'a'", "height", "0", "an int of at least 1")
    assert error.reason == "height: expected an int of at least 1" and "record 'a'" in str(error)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("source", "folder", "split"),
    [
        ("nuclei", "dsb2018_nuclei", "stage1_test"),
        ("bsds500", "bsds500", "val"),
        ("coco", "coco_cc", "val2017"),
    ],
)
def test_real_data_prepares_and_reads(real_data, tmp_path, source, folder, split):
    report = prepare(source, real_data(folder), tmp_path / "out", splits=split, limit=2)
    records = open_source(tmp_path / "out", split)
    assert report.splits[split].images == len(records) == 2
    assert report.splits[split].objects == sum(
        len(records[index]["objects"]["rle"]) for index in range(2)
    )
    for index in range(2):
        validate_record(records[index])
