"""The record schema: run lengths against pycocotools, and every way a record can be wrong."""

import copy

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segjax.data.records import stack_objects, validate_record
from segjax.images.encoding import encode_png
from segjax.masks import (
    RecordError,
    compute_mask_box,
    decode_mask,
    decode_run_lengths,
    encode_mask,
    encode_mask_crop,
    parse_run_lengths,
)


def make_record(**changes):
    mask = np.zeros((20, 30), bool)
    mask[2:6, 3:9] = True
    row = {
        "id": 5,
        "box": compute_mask_box(mask),
        "category": 0,
        "crowd": False,
        "area": 24.0,
        "rle": encode_mask(mask),
    }
    image = np.zeros((20, 30, 3), np.uint8)
    record = {
        "image": encode_png(image),
        "image_id": "pic",
        "height": 20,
        "width": 30,
        "objects": stack_objects([row]),
    }
    return record | changes


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_masks_survive_encoding_and_runs_are_those_of_the_pixels(density):
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


def test_a_part_is_encoded_as_the_whole_mask_is():
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
def test_a_mask_of_one_value_is_one_run_there_and_back(inside, runs):
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


def test_runs_that_do_not_fit_the_image_are_refused():
    rle = encode_mask(np.ones((10, 12), bool))
    for size in ((10, 11), (11, 12), (5, 5)):
        with pytest.raises(
            RecordError, match=f"120 pixels in all for an image of {size[0]} x {size[1]}"
        ):
            decode_mask(rle, *size)
    with pytest.raises(RecordError, match="0 pixels"):
        decode_mask("", 4, 4)


@pytest.mark.parametrize("rle", ["zz\u00e9", "\x01\x02", "P"])
def test_text_that_is_no_run_lengths_is_refused(rle):
    with pytest.raises(RecordError, match="compressed COCO RLE"):
        parse_run_lengths(rle)


@pytest.mark.parametrize("shape", [(0, 4), (3,), (2, 3, 1)])
def test_only_two_dimensional_masks_with_pixels_are_encoded(shape):
    with pytest.raises(ValueError, match="H and W at least 1"):
        encode_mask(np.zeros(shape))


def test_box_edges_are_continuous():
    mask = np.zeros((8, 9), bool)
    mask[3, 4] = True
    np.testing.assert_array_equal(compute_mask_box(mask), [4, 3, 5, 4])


def test_a_good_record_passes_as_bytes_and_as_array():
    validate_record(make_record())
    validate_record(make_record(image=np.zeros((20, 30, 3), np.uint8)))
    validate_record(make_record(objects=stack_objects([])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 3}, "image_id is 3; expected a non-empty str"),
        ({"image_id": ""}, "image_id"),
        ({"height": 21}, "image is 20 x 30 pixels; expected height x width = 21 x 30"),
        ({"width": 0}, "width is 0; expected an int of at least 1"),
        ({"image": b""}, "0 bytes that Pillow cannot open"),
        ({"image": "pic.png"}, "image is str; expected PNG or JPEG bytes"),
        ({"image": np.zeros((20, 30, 3), np.float32)}, "an array float32"),
        ({"image": np.zeros((20, 30), np.uint8)}, r"uint8 \(20, 30\)"),
    ],
)
def test_broken_pictures_and_sizes_are_named(changes, message):
    with pytest.raises(RecordError, match=message):
        validate_record(make_record(**changes))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("box", np.array([[5, 2, 5, 6]], np.float32), "x1 < x2 and y1 < y2"),
        ("box", np.array([[3, 6, 9, 2]], np.float32), "x1 < x2 and y1 < y2"),
        ("box", np.array([[3, 2, np.nan, 6]], np.float32), "finite"),
        ("box", np.array([[3, 2, 31, 6]], np.float32), "a box inside the image"),
        ("box", np.array([[3, 2, 9, 6]], np.float64), r"float64 \[1, 4\]; expected float32"),
        ("box", [[3, 2, 9, 6]], "box is list; expected a NumPy array"),
        ("area", np.zeros(2, np.float32), r"area is float32 \[2\]"),
        ("annotator", np.zeros((1, 2), np.int32), r"annotator is int32 \[1, 2\]"),
        ("keypoints", np.zeros((1, 17, 2), np.float32), "keypoints"),
        ("rle", [encode_mask(np.ones((5, 5)))], "25 pixels in all for an image of 20 x 30"),
        ("rle", [encode_mask(np.zeros((20, 30)))], "an empty mask"),
        ("rle", [b"abc"], "rle is bytes; expected a str"),
        ("colour", np.zeros(1), "an unknown field; expected one of"),
    ],
)
def test_broken_objects_are_named_with_image_and_field(field, value, message):
    record = copy.deepcopy(make_record())
    record["objects"][field] = value
    with pytest.raises(RecordError, match=message) as caught:
        validate_record(record)
    assert "'pic'" in str(caught.value) and field in str(caught.value)


@pytest.mark.parametrize("field", ["image", "image_id", "height", "objects"])
def test_missing_fields_are_named(field):
    record = make_record()
    del record[field]
    with pytest.raises(RecordError, match=f"{field} is missing"):
        validate_record(record)
    record = make_record()
    del record["objects"]["crowd"]
    with pytest.raises(RecordError, match="objects.crowd is missing"):
        validate_record(record)


def test_a_picture_without_objects_still_has_columns():
    objects = stack_objects([], ["annotator"])
    assert (
        objects["box"].shape == (0, 4)
        and objects["annotator"].shape == (0,)
        and objects["rle"] == []
    )
