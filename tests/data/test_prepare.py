"""`prepare`: atomic folders, counts in the report, and errors for bad input."""

import json
import shutil
import signal
import subprocess
import sys
import zlib

import numpy as np
import pytest
from raw_folders import annotation, square, truncate, write_bsds, write_coco, write_label_maps
from records_made import record_of

from segjax.data import threads
from segjax.data.preparation.workspace import Workspace
from segjax.data.prepare import EmptyDatasetError, prepare
from segjax.data.records import validate_record
from segjax.data.report import Report, SplitCounter, SplitReport, read_skipped
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
        EmptyDatasetError, match="'train' has no usable image: skipped 2 images: image is truncated"
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
    for folder in ("/", tmp_path / "home" / "..", tmp_path / "raw" / "."):
        with pytest.raises(FileExistsError, match="choose another folder"):
            prepare("label_maps", tmp_path / "raw", folder, overwrite=True)
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


def test_an_empty_split_names_every_reason_with_an_example(tmp_path):
    small = [annotation(1, [square(2, 2, 5)], category_id=77), annotation(2, [])]
    entries = [{"id": i, "file_name": "7.jpg", "height": 20, "width": 30} for i in (7, 8)]
    write_coco(tmp_path / "raw", small, images=entries)
    with pytest.raises(EmptyDatasetError) as caught:
        prepare("coco", tmp_path / "raw", tmp_path / "out")
    message = str(caught.value)
    assert "skipped 2 images: image has no objects, such as 7" in message
    assert "skipped 1 objects: unknown category id, such as" in message
    assert "no segmentation" in message and "\n" not in message


def test_the_summary_counts_classes_sizes_and_crowds(tmp_path):
    large = [[0, 0, 30, 0, 30, 20, 0, 20]]
    annotations = [
        annotation(1, [square(2, 2, 5)]),
        annotation(2, large, category_id=9, iscrowd=1),
        annotation(3, [square(9, 9, 3)], image_id=8),
    ]
    entries = [{"id": i, "file_name": "7.jpg", "height": 20, "width": 30} for i in (7, 8, 9)]
    write_coco(tmp_path / "raw", annotations, images=entries)
    report = prepare("coco", tmp_path / "raw", tmp_path / "out", keep_empty=True)
    split = report.splits["train"]
    assert (split.images, split.objects, split.crowds) == (3, 3, 1)
    assert (split.without_objects, split.most_objects) == (1, 2)
    assert split.classes == {"cup": 2, "zebra": 1}
    assert split.areas == {"small": 3, "medium": 0, "large": 0}
    assert split.sizes == {name: [30, 20] for name in ("smallest", "median", "largest")}
    saved = json.loads((tmp_path / "out" / "report.json").read_text())["splits"]["train"]
    assert saved["classes"] == split.classes and saved["sizes"] == split.sizes
    text = str(report)
    assert "images of 30 x 20 pixels" in text and "images without objects: 1" in text
    assert "objects: 3 small, 0 medium, 0 large; 1 crowds; at most 2 in an image" in text
    assert ["objects", "per", "class", "train"] in [line.split() for line in text.splitlines()]
    assert ["cup", "2"] in [line.split() for line in text.splitlines()]


def test_sizes_and_many_classes_are_summarized():
    report = SplitReport()
    counter = SplitCounter(report, ["same", "same", *(f"c{k}" for k in range(30))])
    mask = np.ones((4, 6), bool)
    for side in (4, 50, 100):
        record = record_of([mask], category=[1], image_id=str(side))
        record["objects"]["area"] = np.float32([side**2])
        list(counter.count(iter([record | {"width": side, "height": 10}])))
    assert report.sizes == {"smallest": [4, 10], "median": [50, 10], "largest": [100, 10]}
    assert report.areas == {"small": 1, "medium": 1, "large": 1}
    assert report.classes["same (1)"] == 3 and report.classes["same (0)"] == 0
    text = str(Report("x", "out", {"train": report}))
    assert "and 12 more classes in report.json" in text
    assert "classes without any: same (0), c0, c1, c2, c3 and 26 more" in text


def test_what_was_skipped_is_read_back_for_parts_and_held_out_images(tmp_path):
    truncate(write_label_maps(tmp_path / "raw", count=4) / "images" / "a1.png")
    prepare("label_maps", tmp_path / "raw", tmp_path / "out")
    prepare("label_maps", tmp_path / "raw", tmp_path / "divided", held_out=0.3)
    skipped = {"images": {"image is truncated or not an image file": 1}, "objects": {}}
    for folder, split in (("out", "train"), ("out", "train[:50%]"), ("divided", "val")):
        assert read_skipped(tmp_path / folder, split) == skipped
    nothing = {"images": {}, "objects": {}}
    assert read_skipped(tmp_path / "raw", "train") == nothing
    for text in ("{}", '{"splits": 5}', '{"splits": {"train": {"skipped": [1]}}}'):
        (tmp_path / "out" / "report.json").write_text(text)
        assert read_skipped(tmp_path / "out", "train") == nothing
    (tmp_path / "out" / "report.json").write_text("{")
    with pytest.raises(ValueError, match="report.json is damaged"):
        read_skipped(tmp_path / "out", "train")


@pytest.mark.parametrize("share, count", [(0.1, 1), (0.3, 3), (0.99, 9)])
def test_a_share_of_any_single_split_is_held_out(tmp_path, share, count):
    write_label_maps(tmp_path / "raw", count=10)
    report = prepare("label_maps", tmp_path / "raw", tmp_path / "out", held_out=share)
    train, val = (open_source(tmp_path / "out", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (10 - count, count)
    assert list(read_info(tmp_path / "out").splits) == ["train", "val"]
    ids = [[record["image_id"] for record in source] for source in (train, val)]
    assert sorted(ids[0] + ids[1]) == [f"a{k}" for k in range(10)]
    expected = sorted((f"a{k}" for k in range(10)), key=lambda name: zlib.crc32(name.encode()))
    assert set(ids[1]) == set(expected[:count])
    assert [report.splits[split].images for split in ("train", "val")] == [10 - count, count]
    assert report.held_out == {"from": "train", "share": share}
    assert f"{count} of the 10 images of 'train' are held out as 'val'" in str(report)
    validate_record(val[0])
    whole = prepare("label_maps", tmp_path / "raw", tmp_path / "whole")
    assert sum(s.objects for s in report.splits.values()) == whole.splits["train"].objects
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw", "whole"]


def test_one_of_several_splits_may_be_divided(tmp_path):
    write_bsds(tmp_path / "raw")
    with pytest.raises(ValueError, match="the splits train, val, and held_out divides a single"):
        prepare("bsds500", tmp_path / "raw", tmp_path / "out", held_out=0.5)
    with pytest.raises(ValueError, match="has 1 usable image, and held_out needs at least 2"):
        prepare("bsds500", tmp_path / "raw", tmp_path / "out", splits="val", held_out=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    "source, options, message",
    [
        ("coco", {"keypoint": True}, "no option 'keypoint'; it has .*held_out.*mean keypoints"),
        ("coco", {"keypoints": 1}, "keypoints is 1; expected True or False"),
        ("coco", {"held_out": "x"}, "held_out is 'x'; expected a number"),
        ("coco", {"held_out": 1.0}, "held_out is the share .* in 0 .. 1, got 1.0"),
        ("coco", {"held_out": float("nan")}, "held_out is nan; expected a number"),
        ("sa1b", {"min_area": True}, "min_area is True; expected a number"),
        ("synthetic", {"count": 2.5}, "count is 2.5; expected a whole number"),
    ],
)
def test_options_are_checked_and_listed(tmp_path, source, options, message):
    raw = None if source == "synthetic" else tmp_path
    with pytest.raises(ValueError, match=message):
        prepare(source, raw, tmp_path / "out", **options)


def test_numbers_become_text_where_a_name_is_expected(tmp_path):
    prepare("label_maps", write_label_maps(tmp_path / "raw"), tmp_path / "out", category=7)
    assert read_info(tmp_path / "out").categories == ("7",)


def test_data_of_a_killed_preparation_is_removed_by_the_next(tmp_path, caplog):
    write_label_maps(tmp_path / "raw", count=2)
    leftover = tmp_path / ".out.partial" / "data"
    leftover.mkdir(parents=True)
    (leftover / "part").write_text("x")
    (tmp_path / ".out.partial" / ".lock").write_text("")
    prepare("label_maps", tmp_path / "raw", tmp_path / "out")
    assert "removed the incomplete data of an earlier preparation" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]
    assert len(open_source(tmp_path / "out", "train")) == 2


def test_data_that_was_being_replaced_is_put_back(tmp_path):
    write_label_maps(tmp_path / "raw", count=2)
    prepare("label_maps", tmp_path / "raw", tmp_path / "out", limit=1)
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / "out").rename(tmp_path / ".out.partial" / "replaced")
    with pytest.raises(FileExistsError, match="already holds prepared data"):
        prepare("label_maps", tmp_path / "raw", tmp_path / "out")
    assert len(open_source(tmp_path / "out", "train")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_the_data_of_a_living_preparation_is_never_touched(tmp_path):
    write_label_maps(tmp_path / "raw", count=2)
    with Workspace(tmp_path / "out", overwrite=False) as workspace:
        workspace.data.mkdir()
        with pytest.raises(FileExistsError, match="another process is preparing .*out"):
            prepare("label_maps", tmp_path / "raw", tmp_path / "out")
        assert workspace.data.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_working_folder_that_is_deleted_is_reported(tmp_path):
    with (
        pytest.raises(OSError, match="was deleted"),
        Workspace(tmp_path / "out", overwrite=False) as workspace,
    ):
        workspace.data.mkdir()
        shutil.rmtree(workspace.folder)
        workspace.finish()
    assert list(tmp_path.iterdir()) == []


SLOW_PREPARE = """
import sys, time
import segjax.cli
from segjax.data.sources.scenes import SyntheticSource
records = SyntheticSource.records
def slow(self, split, skipped):
    for record in records(self, split, skipped):
        yield record
        print("record", flush=True)
        time.sleep(60)
SyntheticSource.records = slow
sys.exit(segjax.cli.main(["prepare", "synthetic", "--out", sys.argv[1], "--option", "size=32"]))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_command_and_leaves_nothing_half_done(tmp_path, signum):
    command = [sys.executable, "-c", SLOW_PREPARE, str(tmp_path / "out")]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "record\n"
        assert (tmp_path / ".out.partial" / "data").is_dir()
        process.send_signal(signum)
        errors = process.communicate(timeout=30)[1]
    if signum != signal.SIGKILL:
        assert process.returncode == 128 + signum
        assert errors.count("\n") == 1 and f"stopped by {signum.name}" in errors
        assert list(tmp_path.iterdir()) == []
        return
    assert process.returncode == -signum and not (tmp_path / "out").exists()
    prepare("synthetic", None, tmp_path / "out", splits="train", count=2, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
