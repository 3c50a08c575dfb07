"""Masks: run-length encoding compared with pycocotools, boxes, and removal of small regions."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segjax.masks import (
    RecordError,
    compute_mask_box,
    decode_mask,
    decode_run_lengths,
    encode_mask,
    encode_mask_crop,
    parse_run_lengths,
    remove_small_regions,
)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_masks_survive_encoding_and_runs_match_the_pixels(density):
    rng = np.random.default_rng(3)
    for _ in range(20):
        height, width = rng.integers(1, 70, 2)
        mask = rng.random((height, width)) < density
        rle = encode_mask(mask)
        edges = np.flatnonzero(np.diff(mask.T.ravel().astype(int))) + 1
        runs = np.diff(np.concatenate([[0], edges, [mask.size]]))
        expected = np.concatenate([[0], runs]) if mask[0, 0] else runs
        np.testing.assert_array_equal(parse_run_lengths(rle), expected)
        np.testing.assert_array_equal(decode_mask(rle, height, width), mask)
        assert coco_mask.area({"size": [height, width], "counts": rle}) == mask.sum()


def test_a_crop_is_encoded_like_the_full_mask():
    rng = np.random.default_rng(4)
    for _ in range(300):
        height, width = rng.integers(1, 12, 2)
        top, left = rng.integers(height), rng.integers(width)
        bottom, right = rng.integers(top, height) + 1, rng.integers(left, width) + 1
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) < rng.choice(
            [0.0, 0.3, 0.8, 1.0]
        )
        assert encode_mask_crop(
            mask[top:bottom, left:right], (top, left), (height, width)
        ) == encode_mask(mask)


@pytest.mark.parametrize("inside, runs", [(False, [12]), (True, [0, 12])])
def test_a_constant_mask_is_one_run(inside, runs):
    mask = np.full((3, 4), inside)
    rle = encode_mask(mask)
    assert parse_run_lengths(rle).tolist() == runs
    packed = coco_mask.frPyObjects({"size": [3, 4], "counts": runs}, 3, 4)
    assert packed["counts"].decode() == rle and coco_mask.area(packed) == 12 * inside
    for back in (
        decode_mask(rle, 3, 4),
        decode_run_lengths(np.array(runs), 3, 4, "mask"),
        coco_mask.decode(packed),
    ):
        np.testing.assert_array_equal(back, mask)


def test_long_runs_of_large_images_decode():
    mask = np.zeros((2100, 3000), bool)
    mask[1000:, 2000:] = True
    np.testing.assert_array_equal(decode_mask(encode_mask(mask), 2100, 3000), mask)


def test_runs_that_do_not_fit_the_image_raise():
    rle = encode_mask(np.ones((10, 12), bool))
    for size in ((10, 11), (11, 12), (5, 5)):
        with pytest.raises(
            RecordError, match=f"120 pixels in all for an image of {size[0]} x {size[1]}"
        ):
            decode_mask(rle, *size)
    with pytest.raises(RecordError, match="0 pixels"):
        decode_mask("", 4, 4)


@pytest.mark.parametrize("rle", ["zz\u00e9", "\x01\x02", "P"])
def test_text_without_run_lengths_raises(rle):
    with pytest.raises(RecordError, match="compressed COCO RLE"):
        parse_run_lengths(rle)


@pytest.mark.parametrize("shape", [(0, 4), (3,), (2, 3, 1)])
def test_masks_of_other_shapes_raise(shape):
    with pytest.raises(ValueError, match="H and W at least 1"):
        encode_mask(np.zeros(shape))


def test_box_edges_are_continuous():
    mask = np.zeros((8, 9), bool)
    mask[3, 4] = True
    np.testing.assert_array_equal(compute_mask_box(mask), [4, 3, 5, 4])


def box_mask(x1, y1, x2, y2):
    """Returns a mask bool [64, 64] with one filled box."""
    mask = np.zeros((64, 64), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_pixels_that_touch_at_a_corner_are_one_region():
    mask = np.eye(10, dtype=bool)
    assert not remove_small_regions(mask, 10)[1]
    ring = np.ones((9, 9), bool)
    ring[3, 3] = ring[4, 4] = False  # one hole of two pixels
    assert not remove_small_regions(ring, 2)[1] and remove_small_regions(ring, 3)[0].all()


def test_holes_are_filled_before_islands_are_dropped():
    """Fills a ring of 8 pixels, which then is an island of 9."""
    ring = box_mask(5, 5, 8, 8) & ~box_mask(6, 6, 7, 7)
    mask = ring | box_mask(20, 20, 40, 40)
    cleaned, edited = remove_small_regions(mask, 9)
    assert edited and cleaned.sum() == 400 + 9
    islands_first = mask & ~ring
    assert islands_first.sum() == 400


def test_if_all_islands_are_small_the_largest_stays():
    mask = box_mask(0, 0, 3, 3) | box_mask(10, 10, 14, 14) | box_mask(30, 30, 32, 32)
    np.testing.assert_array_equal(remove_small_regions(mask, 100)[0], box_mask(10, 10, 14, 14))
