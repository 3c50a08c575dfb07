"""Boxes of COCO files: those that contradict their masks, and those without a mask."""

import math

import numpy as np
import pytest
from raw_folders import annotation, square, write_coco

from segjax.data.records import validate_record
from segjax.data.sources.annotations.boxes import fill_box
from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.raw import SkipCounts
from segjax.masks import decode_mask

SEGMENTATION = [square(10, 8, 8)]  # mask's box 10, 8, 18, 16 in an image of 20 x 30
USED = ": the mask's box is used"


def read(folder, **options):
    skipped = SkipCounts()
    source = CocoFolder(folder, **options)
    (record,) = source.records("train", skipped)
    validate_record(record)
    return record["objects"], skipped, source


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([10, 8, 18, 16], "box holds the corners x1, y1, x2, y2 instead of x, y, width, height"),
        ([10 / 30, 8 / 20, 8 / 30, 8 / 20], "box holds shares of the image instead of pixels"),
        ([10 / 30, 8 / 20, 18 / 30, 16 / 20], "box holds corners in shares of the image"),
        ([0, 0, 8, 8], "box contradicts its mask"),
        ([10, 8, 8, 16], "box contradicts its mask"),
        ([-5, 8, 23, 8], "box contradicts its mask"),
        ([10, 8, 0, 8], "box with x2 <= x1 or y2 <= y1"),
        ([10, 8, -8, 8], "box with x2 <= x1 or y2 <= y1"),
        ([10, 8, 8], "box is not four numbers"),
        ([10, 8, math.nan, 8], "box is not four numbers"),
        ([10, 8, 1e308, 1e308], "box is not four numbers"),
        ("10 8 8 8", "box is not four numbers"),
        ([[10, 8, 8, 8]], "box is not four numbers"),
    ],
    ids=str,
)
def test_a_box_that_contradicts_its_mask_is_replaced(tmp_path, bbox, reason):
    objects, skipped, _ = read(write_coco(tmp_path, [annotation(1, SEGMENTATION, bbox=bbox)]))
    np.testing.assert_array_equal(objects["annotated_box"], [[10, 8, 18, 16]])
    assert skipped.changed == {reason + USED: 1} and not skipped.objects
    assert "annotation 1 of image 7" in skipped.examples[reason + USED][0]


@pytest.mark.parametrize(
    ("bbox", "box"),
    [
        ([9.5, 8.25, 8.5, 8], [9.5, 8.25, 18, 16.25]),
        (["10", "8", "8", "8.5"], [10, 8, 18, 16.5]),
        ([8, 8, 10, 9], [8, 8, 18, 17]),
        ([], [10, 8, 18, 16]),
        (None, [10, 8, 18, 16]),
    ],
    ids=str,
)
def test_a_box_that_fits_or_is_missing_costs_nothing(tmp_path, bbox, box):
    objects, skipped, source = read(write_coco(tmp_path, [annotation(1, SEGMENTATION, bbox=bbox)]))
    np.testing.assert_array_equal(objects["annotated_box"], [box])
    assert not skipped.changed and not skipped.objects and "box_only" not in source.optional


def test_a_box_near_the_upper_left_corner_is_not_taken_for_corners(tmp_path):
    row = annotation(1, [[0, 0, 26, 0, 26, 18, 0, 18]], bbox=[1.2, 0, 26, 18])
    objects, skipped, _ = read(write_coco(tmp_path, [row]))
    np.testing.assert_allclose(objects["annotated_box"], [[1.2, 0, 27.2, 18]], rtol=1e-6)
    assert not skipped.changed


def test_boxes_of_tiny_masks_may_be_rounded(tmp_path):
    segmentation = [[4.6, 4.6, 5.6, 4.6, 5.6, 5.6, 4.6, 5.6]]
    row = annotation(1, segmentation, bbox=[4.6, 4.6, 0.8, 0.8])
    objects, skipped, _ = read(write_coco(tmp_path, [row]))
    np.testing.assert_allclose(objects["annotated_box"], [[4.6, 4.6, 5.4, 5.4]], rtol=1e-6)
    assert not skipped.changed


@pytest.mark.parametrize("segmentation", [None, [], [[]], {}, ""], ids=str)
def test_an_object_with_a_box_alone_is_kept(tmp_path, segmentation):
    rows = [annotation(1, segmentation, bbox=[10.5, 8.25, 8, 4]), annotation(2, SEGMENTATION)]
    objects, skipped, source = read(write_coco(tmp_path, rows))
    assert source.optional == ("annotated_box", "box_only")
    assert objects["box_only"].tolist() == [True, False]
    np.testing.assert_array_equal(objects["annotated_box"][0], [10.5, 8.25, 18.5, 12.25])
    np.testing.assert_array_equal(objects["area"], [32, 64])
    mask = decode_mask(objects["rle"][0], 20, 30)
    assert mask[8:13, 10:19].all() and mask.sum() == 5 * 9
    assert skipped.changed == {"object has a box and no mask: only detectors can learn it": 1}


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([25, 15, 20, 20], "box does not fit its image"),
        ([-40, 2, 10, 10], "box does not fit its image"),
        ([0.1, 0.2, 0.5, 0.5], "box lies in the first pixel; are its numbers shares of the image?"),
        ([5, 5, 0, 5], "box with x2 <= x1 or y2 <= y1"),
        ([5, 5, "wide", 5], "box is not four numbers"),
    ],
    ids=str,
)
def test_a_lone_box_that_cannot_be_meant_is_skipped(tmp_path, bbox, reason):
    rows = [annotation(1, [], bbox=bbox), annotation(2, SEGMENTATION)]
    objects, skipped, _ = read(write_coco(tmp_path, rows))
    assert objects["id"].tolist() == [2] and skipped.objects == {reason: 1}


def test_a_lone_box_is_clipped_to_its_image(tmp_path):
    objects, skipped, _ = read(write_coco(tmp_path, [annotation(1, [], bbox=[20, 5, 15, 5])]))
    np.testing.assert_array_equal(objects["annotated_box"], [[20, 5, 30, 10]])
    assert skipped.changed["box without a mask clipped to its image"] == 1


def test_lone_boxes_that_look_like_corners_are_reported(tmp_path):
    rows = [annotation(i, [], bbox=box) for i, box in enumerate(([2, 3, 9, 9], [16, 8, 28, 18]))]
    folder = write_coco(tmp_path, rows)
    _, skipped, _ = read(folder)
    (reason,) = skipped.suspicious
    assert "look like corners" in reason and "--option corners=True" in reason
    objects, skipped, _ = read(folder, corners=True)
    np.testing.assert_array_equal(objects["annotated_box"], [[2, 3, 9, 9], [16, 8, 28, 18]])
    assert not skipped.suspicious
    # One box whose second corner would lie before the first proves that they are no corners.
    _, skipped, _ = read(write_coco(tmp_path, [*rows, annotation(9, [], bbox=[15, 3, 9, 9])]))
    assert not skipped.suspicious


def test_filled_boxes_hold_at_least_one_pixel():
    for box in ([29.99, 19.99, 30, 20], [3, 3, 3.001, 3.001], [0, 0, 0.5, 20]):
        assert fill_box(np.array(box, np.float32), 20, 30).any()
