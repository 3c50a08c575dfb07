"""BSDS500: the regions of each annotator cover the image, wholes and parts side by side."""

import contextlib
import itertools

import numpy as np
import pytest
import scipy.io
from raw_folders import truncate, write_bsds, write_ground_truth

from segjax.data.records import validate_record
from segjax.data.sources import mat_files
from segjax.data.sources.bsds500 import Bsds500
from segjax.data.sources.mat_files import MatReader
from segjax.data.sources.raw import SkipCounts, UnusableError
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


def read_one(path, **limits):
    with MatReader(**limits) as reader:
        try:
            reader.read(path)
            return ""
        except UnusableError as error:
            return str(error)


def test_values_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    for regions in (np.ones((2, 3, 4)), np.full((2, 3), np.nan), np.full((2, 3), 2**40), "text"):
        write_ground_truth(path, [np.asarray(regions)])
        assert "ground truth file is not BSDS500's" in read_one(path)
    scipy.io.savemat(path, {"other": 1})
    assert "'groundTruth'" in read_one(path)


@pytest.mark.parametrize(
    "body, reason",
    [
        ("os.abort()", "reading it ended the process"),
        ("os.write(out.fileno(), b'nonsense\\n')", "Expecting value"),
        ("time.sleep(60)", "it takes more than 1 s"),
        ("bytearray(2**33)", "MemoryError"),
    ],
)
def test_a_file_that_ends_the_reader_costs_only_itself(tmp_path, monkeypatch, body, reason):
    """A child that misbehaves for one file stands in for SciPy's reader."""
    child = tmp_path / "child.py"
    source = (mat_files._CHILD).read_text()
    assert "maps = read_region_maps(json.loads(line))" in source
    change = f"if 'bad' in line:\n                import time\n                {body}\n"
    child.write_text(
        source.replace(
            "maps = read_region_maps(json.loads(line))",
            f"{change}            maps = read_region_maps(json.loads(line))",
        )
    )
    monkeypatch.setattr(mat_files, "_CHILD", child)
    for name in ("bad.mat", "good.mat"):
        write_ground_truth(tmp_path / name, [np.ones((3, 4), np.uint16)])
    with MatReader(seconds=1 if "sleep" in body else 20) as reader:
        assert len(reader.read(tmp_path / "good.mat")) == 1
        with pytest.raises(UnusableError, match=f"bad.mat.*{reason}"):
            reader.read(tmp_path / "bad.mat")
        np.testing.assert_array_equal(reader.read(tmp_path / "good.mat"), np.ones((1, 3, 4)))


@pytest.mark.slow
def test_random_damage_of_a_file_ends_in_counts(tmp_path):
    path = tmp_path / "a.mat"
    write_ground_truth(path, [np.arange(600).reshape(20, 30) % 7])
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    with MatReader(seconds=5) as reader:
        for _ in range(2000):
            data = bytearray(whole)
            for _ in range(rng.integers(1, 8)):
                data[rng.integers(128, len(data))] = rng.choice([0, 1, 15, 127, 255])
            path.write_bytes(data)
            with contextlib.suppress(UnusableError):
                reader.read(path)
