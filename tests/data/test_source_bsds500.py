"""BSDS500: the regions of each annotator cover the image, wholes and parts side by side."""

import contextlib
import itertools

import numpy as np
import pytest
import scipy.io
from PIL import Image
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
    write_bsds(tmp_path)
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


def test_maps_of_the_turned_size_turn_the_image_upright(tmp_path):
    write_bsds(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "images" / "train" / "11.jpg", exif=exif)
    (record,), skipped = read(tmp_path)
    assert (record["height"], record["width"]) == (20, 30)
    assert skipped.changed == {"image is turned upright as its EXIF orientation asks": 1}


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


def explain(reader, path):
    """Returns the message of the error that a file raises."""
    with pytest.raises(UnusableError) as caught:
        reader.read(path)
    return str(caught.value)


def test_values_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "a.mat"
    with MatReader() as reader:
        for regions in (np.ones((2, 3, 4)), np.full((2, 3), np.nan), np.full((2, 3), 2**40), "a"):
            write_ground_truth(path, [np.asarray(regions)])
            assert "ground truth file is not BSDS500's" in explain(reader, path)
        scipy.io.savemat(path, {"other": 1})
        assert "'groundTruth'" in explain(reader, path)


# Name of a file -> what the reader does with it, and what is reported
MISBEHAVIOR = {
    "abort": ("os.abort()", "reading it ended the process"),
    "nonsense": ("os.write(out.fileno(), b'nonsense\\n')", "Expecting value"),
    "slow": ("__import__('time').sleep(60)", "it takes more than 1 s"),
    "large": ("bytearray(2**33)", "MemoryError"),
}


def test_a_file_that_ends_the_reader_costs_only_itself(tmp_path, monkeypatch):
    """A child that misbehaves for files of certain names stands in for SciPy's reader."""
    call = "maps = read_maps(*json.loads(line))"
    source = mat_files._CHILD.read_text()
    assert call in source
    cases = "".join(
        f"if '{name}.mat' in line:\n                {body}\n            "
        for name, (body, _) in MISBEHAVIOR.items()
    )
    (tmp_path / "child.py").write_text(source.replace(call, cases + call))
    monkeypatch.setattr(mat_files, "_CHILD", tmp_path / "child.py")
    write_ground_truth(tmp_path / "good.mat", [np.ones((3, 4), np.uint16)])
    with MatReader() as reader:
        for name, (_, reason) in MISBEHAVIOR.items():
            reader._seconds = 1 if name == "slow" else 20
            assert reason in explain(reader, tmp_path / f"{name}.mat")
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
