import io

import numpy as np
import pytest
from PIL import Image

from segjax.data.examples.crop import CropExample, sample_crop_box
from segjax.images.decoding import ImageError
from segjax.images.transforms import center_crop


def record(pixels):
    return {"image": pixels, "image_id": "a", "height": pixels.shape[0], "width": pixels.shape[1]}


def test_crop_boxes_have_the_requested_areas_and_ratios():
    rng = np.random.default_rng(0)
    boxes = np.array(
        [sample_crop_box((300, 400), (0.2, 1.0), (3 / 4, 4 / 3), rng) for _ in range(2000)]
    )
    top, left, height, width = boxes.T
    assert (
        (top >= 0).all()
        and (left >= 0).all()
        and (top + height <= 300).all()
        and (left + width <= 400).all()
    )
    share, aspect = height * width / 120_000, width / height
    assert share.min() > 0.19 and share.max() < 1.01 and aspect.min() > 0.74 and aspect.max() < 1.35
    small = share < 0.5  # every ratio fits: area and logarithm of the ratio are uniform
    np.testing.assert_allclose(share[small].mean(), 0.35, atol=0.015)
    np.testing.assert_allclose(np.log(aspect[small]).mean(), 0, atol=0.02)
    assert len(np.unique(top)) > 100 and len(np.unique(left)) > 100


def test_an_image_that_no_box_fits_gets_the_central_one():
    rng = np.random.default_rng(0)
    assert sample_crop_box((30, 300), (0.9, 1.0), (3 / 4, 4 / 3), rng) == (0, 130, 30, 40)
    assert sample_crop_box((300, 30), (0.9, 1.0), (3 / 4, 4 / 3), rng) == (130, 0, 40, 30)


def test_training_crops_flips_and_resizes_and_evaluation_does_not():
    ramp = np.repeat(np.repeat(np.arange(120, dtype=np.uint8)[None, :, None], 90, 0), 3, 2)
    example = CropExample(32, scale=(0.2, 0.3))
    rng = np.random.default_rng(0)
    crops = [example(record(ramp), rng) for _ in range(40)]
    rises = [float(crop["image"][0, -1, 0]) - float(crop["image"][0, 0, 0]) for crop in crops]
    assert all(crop["image"].shape == (32, 32, 3) and crop["weight"] == 1 for crop in crops)
    assert 8 < sum(rise < 0 for rise in rises) < 32  # mirrored half the time
    assert max(map(abs, rises)) < 70  # crops, not the full range of 120
    fixed = CropExample(32, train=False)
    assert (fixed(record(ramp), rng)["image"] == center_crop(ramp, 32)).all()
    # Columns 15 to 104 become 32 pixels of 2.8 columns each, with centers at 16.4 and 103.6 minus
    # half a column.
    assert (fixed(record(ramp), rng)["image"][0, [0, -1], 0] == [16, 103]).all()


def test_encoded_and_gray_images_are_read_and_broken_ones_are_named():
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 30), 77, np.uint8)).save(buffer, "PNG")
    gray = {"image": buffer.getvalue(), "image_id": "gray", "height": 20, "width": 30}
    found = CropExample(16, train=False)(gray, np.random.default_rng(0))["image"]
    assert found.shape == (16, 16, 3) and (found == 77).all()
    with pytest.raises(ImageError, match="image 'cut'"):
        CropExample(16)(
            gray | {"image": buffer.getvalue()[:40], "image_id": "cut"}, np.random.default_rng(0)
        )
    blank = CropExample(16).placeholder()
    assert blank["weight"] == 0 and not blank["image"].any() and blank["image"].shape == (16, 16, 3)


@pytest.mark.parametrize(
    "scale, message", [((0, 1), "0 < low"), ((0.5, 0.2), "0 < low"), ((0.2, 1.5), "<= 1")]
)
def test_ranges_are_checked(scale, message):
    with pytest.raises(ValueError, match=f"crop scale .*{message}"):
        CropExample(16, scale=scale)
    with pytest.raises(ValueError, match="crop ratio"):
        CropExample(16, ratio=(2, 1))
