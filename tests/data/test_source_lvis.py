"""LVIS: frequencies, absent and incomplete categories, photographs by URL, and `prepare`."""

import json

import numpy as np
import pytest
from raw_folders import annotation, square, write_coco, write_lvis

from segjax.data.prepare import prepare
from segjax.data.records import validate_record
from segjax.data.sources.lvis import LvisFolder
from segjax.data.sources.raw import SkipCounts
from segjax.data.storage import open_source
from segjax.evaluation.coco import evaluate_coco
from segjax.evaluation.coco_format import build_coco_ground_truth
from segjax.evaluation.coco_results import CocoResults

OBJECT = annotation(1, [square(2, 3, 4)], bbox=[2.2, 3.1, 4.0, 4.0], area=16.0)


def test_records_have_absent_and_incomplete_categories(tmp_path):
    source, skipped = LvisFolder(write_lvis(tmp_path, [OBJECT])), SkipCounts()
    (record,) = source.records("val", skipped)
    validate_record(record)
    assert (
        source.splits == ("val",)
        and source.categories == ("cup", "zebra")
        and source.frequencies == ("f", "r")
    )
    assert record["neg_categories"].tolist() == [1] and record[
        "not_exhaustive_categories"
    ].tolist() == [0]
    assert (
        record["objects"]["area"] == 16
        and not record["objects"]["crowd"].any()
        and not skipped.images
    )
    np.testing.assert_allclose(
        record["objects"]["annotated_box"], [[2.2, 3.1, 6.2, 7.1]], rtol=1e-6
    )


def test_photographs_of_version_0_5_are_found_by_name(tmp_path):
    write_lvis(tmp_path, [OBJECT], coco_url=None, file_name="000000000007.jpg")
    (tmp_path / "train2017").rename(tmp_path / "images")
    assert len(list(LvisFolder(tmp_path).records("val", SkipCounts()))) == 1
    skipped = SkipCounts()
    write_lvis(tmp_path, [OBJECT], height=21)
    assert not list(LvisFolder(tmp_path).records("val", skipped))
    assert skipped.images == {"image is not of the annotated size": 1}
    (tmp_path / "images" / "000000000007.jpg").unlink()
    (tmp_path / "train2017" / "000000000007.jpg").unlink()
    skipped = SkipCounts()
    assert not list(LvisFolder(tmp_path).records("val", skipped)) and skipped.images == {
        "image file is missing": 1
    }


def test_prepared_data_is_measured_as_in_lvis(tmp_path):
    prepare("lvis", write_lvis(tmp_path / "raw", [OBJECT]), tmp_path / "out")
    records = open_source(tmp_path / "out", "val")
    info = records.info
    assert info.frequencies == ("f", "r") and info.category_ids == (3, 9)
    assert (
        records[0]["neg_categories"].tolist() == [1]
        and records[0]["neg_categories"].dtype == np.int32
    )
    truth = build_coco_ground_truth(
        records, info.categories, info.category_ids, frequencies=info.frequencies
    )
    raw = json.loads((tmp_path / "raw" / "lvis_v1_val.json").read_text())
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        assert truth["images"][0][name] == raw["images"][0][name]
    results = CocoResults(truth)
    results.add(0, [[2, 3, 6, 7], [10, 10, 20, 20]], [0.5, 0.9], [0, 0])
    # The annotated box overlaps the first prediction by 14.82 / 17.18 = 0.86, enough for eight of
    # ten thresholds. The second one is ignored, because its category is not completely annotated.
    # The raw file serves as ground truth unchanged.
    for ground_truth in (truth, raw):
        numbers = evaluate_coco(ground_truth, results.rows()).summarize()
        assert numbers["bbox/APf"] == pytest.approx(0.8) and "bbox/APr" not in numbers


def test_a_coco_file_raises_and_names_the_coco_source(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no lvis\*.json"):
        LvisFolder(write_coco(tmp_path, []))
    write_lvis(tmp_path, [OBJECT])
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(path.read_text().replace('"frequency": "r"', '"frequency": "?"'))
    with pytest.raises(ValueError, match="prepare it as `coco`"):
        LvisFolder(tmp_path)
