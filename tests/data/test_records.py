"""The record schema, and every way in which a record can break it."""

import copy

import numpy as np
import pytest

from segjax.data.records import check_categories, stack_objects, validate_record
from segjax.images.encoding import encode_png
from segjax.masks import RecordError, compute_mask_box, encode_mask


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


def test_a_valid_record_passes_as_bytes_and_as_array():
    validate_record(make_record())
    validate_record(make_record(image=np.zeros((20, 30, 3), np.uint8)))
    validate_record(make_record(objects=stack_objects([])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 3}, "image_id is 3; expected a non-empty str"),
        ({"image_id": ""}, "image_id"),
        ({"image_id": "a\udcff"}, r"image_id is 'a.udcff'; expected text that UTF-8 can hold"),
        ({"height": 21}, "image is 20 x 30 pixels; expected height x width = 21 x 30"),
        ({"width": 0}, "width is 0; expected an int of at least 1"),
        ({"image": b""}, "0 bytes that cannot be opened"),
        ({"image": "pic.png"}, "image is str; expected PNG or JPEG bytes"),
        ({"image": np.zeros((20, 30, 3), np.float32)}, "an array float32"),
        ({"image": np.zeros((20, 30), np.uint8)}, r"uint8 \(20, 30\)"),
    ],
)
def test_broken_images_and_sizes_are_named(changes, message):
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
        ("color", np.zeros(1), "an unknown field; expected one of"),
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


def test_an_image_without_objects_still_has_columns():
    objects = stack_objects([], ["annotator"])
    assert (
        objects["box"].shape == (0, 4)
        and objects["annotator"].shape == (0,)
        and objects["rle"] == []
    )


def test_categories_lie_in_the_list_of_categories():
    check_categories(make_record(label=1), 2)
    for changes, found in (({}, 0), ({"label": 5}, 5)):
        with pytest.raises(RecordError, match=f"category is {found}; expected 0 .. {found - 1}"):
            check_categories(make_record(**changes), found)
