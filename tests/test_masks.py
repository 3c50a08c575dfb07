"""Masks: run-length encoding compared with pycocotools, boxes, and removal of small regions."""

import time

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segjax.masks import (
    MAX_PIXELS,
    RecordError,
    check_run_lengths,
    compute_mask_box,
    decode_mask,
    decode_mask_crop,
    decode_rle,
    decode_run_lengths,
    encode_label_map,
    encode_mask,
    encode_mask_crop,
    find_broken_rles,
    parse_rle,
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
        rle = encode_mask_crop(mask[top:bottom, left:right], (top, left), (height, width))
        assert rle == encode_mask(mask)
        crop, (top, left) = decode_mask_crop(rle, height, width)
        placed = np.zeros_like(mask)
        placed[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        np.testing.assert_array_equal(placed, mask)
        # Every edge of the smallest crop has a pixel.
        edges = [crop[:1], crop[-1:], crop[:, :1], crop[:, -1:]]
        assert all(edge.any() for edge in edges) if mask.any() else crop.shape == (0, 0)


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


@pytest.mark.parametrize("rle", [None, 5, ["3"], "\ud800"])
def test_values_other_than_text_are_no_rle_string(rle):
    with pytest.raises(RecordError, match="compressed COCO RLE"):
        parse_run_lengths(rle)


@pytest.mark.parametrize(
    "runs, found",
    [
        ([2**63 - 1, 2**63 - 1, 602], "runs of 2\\*\\*63 or more pixels in all"),
        (np.array([2**63 - 1, 2**63 - 1, 602]), "runs of 2\\*\\*63 or more pixels in all"),
        ([2**64, 3], "runs of 2\\*\\*63 or more pixels in all"),
        ([10**5000, 3], "runs of 2\\*\\*63 or more pixels in all"),
        ([-1, 601], "a negative run"),
        ([-(2**70), 601], "a negative run"),
        ([300, 299], "runs of 599 pixels in all"),
        ([300, 301], "runs of 601 pixels in all"),
        ([], "runs of 0 pixels in all"),
        ([2.5, 597.5], "a list with 2.5"),
        ([300.0, 300.0], "a list with 300.0"),
        ([True, 599], "a list with True"),
        ([[300, 300]], "a list with a list"),
        (["600"], "a list with '600'"),
        ([None], "a list with a NoneType"),
        (np.array([300.0, 300.0]), "an array .2. of float64"),
        (np.array([[300, 300]]), "an array .1, 2. of int64"),
        (np.array([2**63, 3], np.uint64), "runs of 2\\*\\*63 or more pixels in all"),
        ("600", "'600'"),
        (600, "600"),
        (None, "a NoneType"),
    ],
)
def test_runs_are_checked_one_by_one_before_they_are_summed(runs, found):
    with pytest.raises(RecordError, match=rf"m: rle is {found} for an image of 20 x 30; expected"):
        decode_run_lengths(runs, 20, 30, "m")


@pytest.mark.parametrize("size", [(0, 5), (-1, -1), (2.0, 3), (True, 3), ("2", 3), (None, 3)])
def test_sizes_are_positive_whole_numbers(size):
    with pytest.raises(RecordError, match="size is .* expected height and width as whole numbers"):
        decode_run_lengths([6], *size, "m")


@pytest.mark.parametrize("size", [(MAX_PIXELS + 1, 1), (10**6, 10**6), (2**32, 2**32)])
def test_absurdly_large_masks_are_refused_before_memory_is_taken(size):
    with pytest.raises(RecordError, match=f"expected a mask of at most {MAX_PIXELS} pixels"):
        decode_run_lengths([size[0] * size[1]], *size, "m")


def test_compressed_runs_that_wrap_around_are_refused():
    """Differences add up to runs whose sum is 600 modulo 2**64."""
    huge = "o" * 7 + "?"  # the largest number of 8 characters, 2**39 - 1
    for text in (huge * 3, "0" + huge * 4000):
        with pytest.raises(RecordError, match="a negative run|runs of"):
            decode_mask(text, 20, 30)


@pytest.mark.parametrize("counts", [[1, 2, 3], encode_mask(np.array([[0, 1], [1, 0], [1, 0]]))])
def test_a_mapping_of_size_and_counts_is_decoded(counts):
    expected = [[False, True], [True, False], [True, False]]
    for form in (counts, counts.encode() if isinstance(counts, str) else tuple(counts)):
        assert decode_rle({"size": [3, 2], "counts": form}).tolist() == (
            expected if isinstance(counts, str) else [[False, False], [True, False], [True, False]]
        )


@pytest.mark.parametrize(
    "rle",
    [
        None,
        [6],
        {"counts": [6]},
        {"size": [3, 2]},
        {"size": 6, "counts": [6]},
        {"size": [3], "counts": [6]},
        {"size": [3, 2, 1], "counts": [6]},
        {"size": "32", "counts": [6]},
        {"size": [[3], 2], "counts": [6]},
        {"size": [3, 2], "counts": {"0": 6}},
    ],
    ids=str,
)
def test_other_mappings_are_refused(rle):
    with pytest.raises(RecordError, match="expected"):
        parse_rle(rle)


def test_many_strings_are_checked_like_one_by_one():
    rng, rles, pixels = np.random.default_rng(7), ["", "P", "o" * 9, "\u00e9"], [0, 4, 4, 4]
    for _ in range(400):
        height, width = rng.integers(1, 20, 2)
        rle = encode_mask(rng.random((height, width)) < rng.random())
        changes = (rle, rle[:-1], "o" * rng.integers(9) + rle, rle + "\n", rle + "0", rle + rle)
        rles.append(changes[rng.choice(6, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])])
        pixels.append(int(height * width) + (rng.random() < 0.1))
    expected = []
    for index, (rle, count) in enumerate(zip(rles, pixels, strict=True)):
        try:
            check_run_lengths(parse_run_lengths(rle), 1, count, "m")
        except RecordError:
            expected.append(index)
    assert 50 < len(expected) < 350
    assert find_broken_rles(rles, pixels).tolist() == expected
    assert find_broken_rles([], []).tolist() == []


@pytest.mark.slow
def test_random_counts_never_end_in_another_error():
    rng = np.random.default_rng(0)
    numbers = [0, 1, -1, 5, 30, 299, 300, 600, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64, 2**70]
    others = [True, 2.5, float("nan"), "3", None, [1], {}, b"", "0" * 9]
    for _ in range(20_000):
        kinds = numbers if rng.random() < 0.7 else numbers + others
        counts = [kinds[i] for i in rng.integers(len(kinds), size=rng.integers(0, 8))]
        if rng.random() < 0.3:
            counts = bytes(rng.integers(48, 112, rng.integers(0, 30), dtype=np.uint8)).decode()
        size = [kinds[i] for i in rng.integers(len(kinds), size=rng.integers(1, 4))]
        size = [20, 30] if rng.random() < 0.7 else size
        try:
            assert decode_rle({"size": size, "counts": counts}).shape == tuple(size)
        except RecordError as error:
            assert len(str(error)) < 300


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64])
def test_a_label_map_is_encoded_like_its_masks_one_by_one(dtype):
    rng = np.random.default_rng(5)
    for _ in range(100):
        height, width = rng.integers(1, 12, 2)
        low = 0 if dtype is np.uint16 else -2
        labels = rng.integers(low, rng.integers(1, 6), (height, width)).astype(dtype)
        regions = encode_label_map(np.asfortranarray(labels) if rng.random() < 0.5 else labels)
        assert [region.value for region in regions] == [v for v in np.unique(labels) if v > 0]
        for region in regions:
            mask = labels == region.value
            assert (region.rle, region.area) == (encode_mask(mask), mask.sum())
            np.testing.assert_array_equal(region.box, compute_mask_box(mask))


def test_the_time_of_a_label_map_does_not_grow_with_pixels_times_values():
    """65,535 values took minutes when each was compared with every pixel."""
    labels = np.random.default_rng(6).integers(0, 2**16, (512, 512)).astype(np.uint16)
    start = time.perf_counter()
    regions = encode_label_map(labels)
    assert len(regions) == len(np.unique(labels)) - 1
    assert sum(region.area for region in regions) == np.count_nonzero(labels)
    # One comparison of all pixels takes 0.1 ms at the very least, so 65,535 take 6 s.
    assert time.perf_counter() - start < 6


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


def test_a_huge_smallest_region_keeps_the_largest_island():
    mask = np.zeros((4, 6), bool)
    mask[0, 0] = mask[2:, 2:] = True
    cleaned, changed = remove_small_regions(mask, 10**30)
    assert changed and cleaned.all()  # the hole around the islands is small, too
