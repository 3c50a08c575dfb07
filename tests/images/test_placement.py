"""Placements: points, boxes and pixels in both directions, and sizes of published detectors."""

import numpy as np
import pytest
from PIL import Image

from segjax.data.examples.augmentation import Augmentation, draw_placement
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.placement import (
    Placement,
    place_for_detection,
    place_whole_image,
)
from segjax.images.resizing import compute_short_side_size


def test_points_follow_the_pixels_and_map_back():
    rng = np.random.default_rng(0)
    options = Augmentation(scale=(1.0, 3.0), flip=True, vertical_flip=True, quarter_turns=True)
    for _ in range(40):
        y, x = int(rng.integers(60)), int(rng.integers(80))
        image = np.zeros((60, 80), np.uint8)
        image[y, x] = 255
        placement = draw_placement((60, 80), 64, options, rng)
        point = placement.transform_points([x + 0.5, y + 0.5])
        np.testing.assert_allclose(placement.invert_points(point), [x + 0.5, y + 0.5], atol=1e-9)
        content = placement.apply(image)
        if content.max() > 30:
            row, column = np.unravel_index(content.argmax(), content.shape)
            # Pillow spreads one pixel, so the brightest pixel lies within its size.
            reach = 0.5 + max(placement.resized) / max(placement.rotated)
            assert abs(column + 0.5 - point[0]) <= reach and abs(row + 0.5 - point[1]) <= reach


def test_a_mirrored_box_equals_detectron2s():
    """Mirrors detectron2's box [10, 10, 200, 300] and polygon at width 400."""
    mirror = Placement((320, 400), (320, 400), (0, 0), (320, 400), flip_x=True)
    np.testing.assert_array_equal(mirror.transform_boxes([10, 10, 200, 300]), [200, 10, 390, 300])
    np.testing.assert_array_equal(
        mirror.transform_points([(10, 10), (100, 100), (100, 10)]),
        [(390, 10), (300, 100), (300, 10)],
    )
    np.testing.assert_array_equal(mirror.invert_boxes([200, 10, 390, 300]), [10, 10, 200, 300])
    assert (
        mirror.is_mirrored
        and not Placement((9, 9), (9, 9), (0, 0), (9, 9), 2, True, True).is_mirrored
    )


@pytest.mark.parametrize(
    ("hw", "resize", "expected"),
    [
        ((480, 640), "pillow", (800, 1067)),  # detectron2 rounds 1066.67
        ((480, 640), "torchvision", (800, 1066)),
        ((640, 427), "pillow", (1199, 800)),
        ((300, 600), "pillow", (667, 1333)),  # the longer side stops at 1333
        ((300, 600), "torchvision", (666, 1333)),
    ],
)
def test_sizes_equal_those_of_published_detectors(hw, resize, expected):
    assert compute_short_side_size(hw, 800, 1333, resize) == expected


def test_images_larger_than_the_canvas_are_fitted_to_it():
    assert place_for_detection((640, 480), (832, 1344), 800, 1333).size == (832, 624)
    assert place_for_detection((480, 640), (832, 1344), 800, 1333).size == (800, 1067)
    assert place_for_detection((480, 640), (512, 512)).size == (384, 512)
    with pytest.raises(ValueError, match="choose one of pillow, torchvision"):
        compute_short_side_size((3, 3), 4, 4, "cubic")


def test_resize_bilinear_uses_only_the_four_nearest_pixels():
    """Shrinks to a quarter: each pixel is the mean of the central 2 x 2 of its 4 x 4 pixels."""
    photograph = load_demonstration_photograph()[:400, :600]
    small = place_whole_image((400, 600), (100, 150), "torchvision").apply(photograph)
    middle = photograph.reshape(100, 4, 150, 4, 3)[:, 1:3, :, 1:3].astype(float).mean((1, 3))
    assert np.abs(small - middle).max() <= 0.5
    cut = Placement((400, 600), (100, 150), (20, 30), (50, 60), resize="torchvision").apply(
        photograph
    )
    assert np.abs(cut.astype(int) - small[20:70, 30:90]).max() <= 1
    antialiased = place_whole_image((400, 600), (100, 150)).apply(photograph)
    np.testing.assert_array_equal(
        antialiased, Image.fromarray(photograph).resize((150, 100), Image.BILINEAR)
    )
    assert np.abs(antialiased.astype(int) - small).max() > 20


def test_both_filters_agree_if_images_grow():
    photograph = load_demonstration_photograph()[:60, :90]
    placements = [
        Placement((60, 90), (100, 150), (20, 30), (50, 60), resize=r)
        for r in ("pillow", "torchvision")
    ]
    grown = [placement.apply(photograph) for placement in placements]
    np.testing.assert_array_equal(*grown)
    exact = placements[1].apply_exactly(photograph)
    assert exact.dtype == np.float32 and 0 < np.abs(exact - grown[0]).max() <= 1


def test_exact_pixels_have_the_type_that_their_library_resizes():
    """Pillow's stay bytes. torchvision's are floats even where the image keeps its size."""
    ramp = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
    double = Placement((4, 6), (8, 12), (0, 0), (8, 12), resize="torchvision").apply_exactly(ramp)
    np.testing.assert_array_equal(double[0, :6], [0, 2.5, 7.5, 12.5, 17.5, 22.5])
    np.testing.assert_array_equal(double[:3, 0], [0, 15, 45])
    for resize, dtype in (("pillow", np.uint8), ("torchvision", np.float32)):
        kept = Placement((4, 6), (4, 6), (1, 0), (3, 5), resize=resize).apply_exactly(ramp)
        assert kept.dtype == dtype and (kept == ramp[1:, :5]).all()
    mirrored = Placement((4, 6), (8, 12), (0, 0), (8, 12), 0, True, False, "torchvision")
    np.testing.assert_array_equal(mirrored.apply_exactly(ramp), double[:, ::-1])
