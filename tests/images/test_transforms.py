"""Resizing, padding and scaling into the model's frame, as in SAM."""

import numpy as np
import pytest
from PIL import Image

from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.transforms import (
    compute_fitted_size,
    pad_to_canvas,
    resize_longest_side,
    scale_boxes,
    scale_points,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (11, 17, 3), np.uint8)


@pytest.mark.parametrize(
    ("hw", "canvas", "expected"),
    [
        ((400, 600), 1024, (683, 1024)),  # 682.67 rounds up
        ((600, 400), 1024, (1024, 683)),
        ((1500, 2250), 1024, (683, 1024)),
        ((427, 640), 128, (85, 128)),  # 85.4 rounds down
        ((128, 128), 128, (128, 128)),
        ((1, 5000), 1024, (1, 1024)),  # 0.2 would vanish
    ],
)
def test_sizes_are_rounded_as_in_sam(hw, canvas, expected):
    assert compute_fitted_size(hw, canvas) == expected


def test_resize_is_pillows_antialiased_bilinear():
    photograph = load_demonstration_photograph()
    image = resize_longest_side(photograph, 256)
    assert image.shape == (171, 256, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(
        image, np.asarray(Image.fromarray(photograph).resize((256, 171), Image.BILINEAR))
    )
    # Antialiasing turns a checkerboard of single pixels gray. Plain bilinear keeps some squares.
    board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    assert np.abs(resize_longest_side(board, 16)[1:-1, 1:-1].astype(int) - 127).max() < 6
    np.testing.assert_array_equal(resize_longest_side(photograph, 600), photograph)


def test_padding_is_zeros_right_and_below():
    padded = pad_to_canvas(PIXELS, 20)
    np.testing.assert_array_equal(padded[:11, :17], PIXELS)
    assert padded.shape == (20, 20, 3) and not padded[11:].any() and not padded[:, 17:].any()
    with pytest.raises(ValueError, match="11 x 17 pixels does not fit a canvas of 16"):
        pad_to_canvas(PIXELS, 16)


def test_coordinates_scale_by_the_rounded_sizes():
    # 427 x 640 becomes 85 x 128, so x scales by 0.2, but y by 85/427.
    points = scale_points([[320, 427], [0, 0]], (427, 640), (85, 128))
    np.testing.assert_allclose(points, [[64, 85], [0, 0]], rtol=1e-6)
    assert points.dtype == np.float32
    boxes = scale_boxes([[0, 0, 640, 427], [320, 42.7, 480, 85.4]], (427, 640), (85, 128))
    np.testing.assert_allclose(boxes, [[0, 0, 128, 85], [64, 8.5, 96, 17]], rtol=1e-6)
    back = scale_boxes(boxes, (85, 128), (427, 640))
    np.testing.assert_allclose(back, [[0, 0, 640, 427], [320, 42.7, 480, 85.4]], rtol=1e-5)
