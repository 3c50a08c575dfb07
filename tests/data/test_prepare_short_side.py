"""Shrinking a record: image, masks, boxes and keypoints stay aligned."""

import io

import numpy as np
import pytest
from PIL import Image

from segjax.data.preparation.shrink import shrink_to_short_side
from segjax.data.records import stack_objects, validate_record
from segjax.data.sources.raw import SkipCounts
from segjax.images.encoding import encode_png
from segjax.masks import compute_mask_box, decode_mask, encode_mask


def make_record(masks, keypoints):
    height, width = masks[0].shape
    image = np.zeros((height, width, 3), np.uint8)
    image[masks[0]] = 255
    rows = [
        {
            "id": i,
            "box": compute_mask_box(m),
            "category": 0,
            "crowd": False,
            "area": m.sum(),
            "rle": encode_mask(m),
        }
        for i, m in enumerate(masks)
    ]
    rows = [row | {"keypoints": keypoints} for row in rows]
    objects = stack_objects(rows, ("keypoints",))
    return {
        "image": encode_png(image),
        "image_id": "pic",
        "height": height,
        "width": width,
        "objects": objects,
    }


def test_image_masks_boxes_and_keypoints_shrink_together():
    mask = np.zeros((40, 60), bool)
    mask[8:24, 12:40] = True
    speck = np.zeros((40, 60), bool)
    speck[0, 0] = True
    skipped = SkipCounts()
    record = shrink_to_short_side(make_record([mask, speck], [[12, 8, 2]]), 10, skipped)
    validate_record(record)
    assert (record["height"], record["width"]) == (10, 15)
    small = decode_mask(record["objects"]["rle"][0], 10, 15)
    np.testing.assert_array_equal(record["objects"]["box"], [[3, 2, 10, 6]])
    np.testing.assert_allclose(record["objects"]["area"], [28])
    np.testing.assert_allclose(record["objects"]["keypoints"], [[[3, 2, 2]]])
    with Image.open(io.BytesIO(record["image"])) as opened:
        pixels = np.asarray(opened.convert("L"))
    np.testing.assert_array_equal(pixels > 127, small)
    assert skipped.objects == {"object vanishes at this short_side": 1}


def test_small_images_are_unchanged():
    record = make_record([np.ones((8, 9), bool)], [[0, 0, 0]])
    assert shrink_to_short_side(record, 8, SkipCounts()) is record
    with pytest.raises(ValueError, match="short_side is 0"):
        shrink_to_short_side(record, 0, SkipCounts())
