"""Random augmentation: geometry of image and mask, large-scale jitter, and color jitter."""

import numpy as np
import pytest
from PIL import Image

from segjax.data.examples.augmentation import Augmentation, draw_placement, jitter_colors
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.placement import Placement


def rectangle_scene(rng, hw):
    """Makes an image of blue noise with one green rectangle, and the mask of the rectangle."""
    image = rng.integers(0, 256, (*hw, 3), np.uint8) * np.array([0, 0, 1], np.uint8)
    mask = np.zeros(hw, bool)
    y, x = rng.integers(5, hw[0] // 2), rng.integers(5, hw[1] // 2)
    mask[y : y + rng.integers(20, 40), x : x + rng.integers(20, 40)] = True
    image[mask] = (0, 255, 0)
    return image, mask


def test_image_and_mask_move_together():
    rng = np.random.default_rng(3)
    options = Augmentation(scale=(0.4, 2.0), flip=True, vertical_flip=True, quarter_turns=True)
    seen = 0
    for _ in range(60):
        image, mask = rectangle_scene(rng, (90, 120))
        placement = draw_placement((90, 120), 96, options, rng)
        content, moved = placement.apply(image), placement.apply_mask(mask)
        assert content.shape[:2] == moved.shape == placement.size
        np.testing.assert_array_equal(content[..., 1] >= 128, moved, err_msg=str(placement))
        seen += moved.any()
    assert seen > 40


def test_overlaps_window_finds_exactly_the_boxes_that_reach_it():
    rng = np.random.default_rng(4)
    options = Augmentation(scale=(1.5, 4.0), flip=True, vertical_flip=True, quarter_turns=True)
    agreed = {True: 0, False: 0}
    for _ in range(80):
        _, mask = rectangle_scene(rng, (90, 120))
        rows, columns = np.nonzero(mask)
        box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        placement = draw_placement((90, 120), 64, options, rng)
        visible = placement.apply_mask(mask).sum()
        hit = bool(placement.overlaps_window(box)[0])
        assert hit or visible == 0
        if hit and visible == 0:  # a sliver thinner than half a pixel may vanish
            thicker = Placement(**(placement.__dict__ | {"size": tuple(np.add(placement.size, 2))}))
            assert thicker.overlaps_window(box)[0]
        agreed[hit] += 1
    assert min(agreed.values()) > 5


def test_cropping_equals_resizing_then_cropping():
    photograph = load_demonstration_photograph()
    placement = Placement((400, 600), (200, 300), (37, 111), (96, 96))
    whole = np.asarray(Image.fromarray(photograph).resize((300, 200), Image.BILINEAR))
    difference = placement.apply(photograph).astype(int) - whole[37 : 37 + 96, 111 : 111 + 96]
    assert np.abs(difference).max() <= 1


def test_the_identity_changes_nothing():
    image, mask = rectangle_scene(np.random.default_rng(5), (96, 96))
    placement = draw_placement((96, 96), 96, Augmentation(), np.random.default_rng(0))
    np.testing.assert_array_equal(placement.apply(image), image)
    np.testing.assert_array_equal(placement.apply_mask(mask), mask)
    assert placement.size == (96, 96)


def test_flips_and_rotations_equal_numpys():
    image, mask = rectangle_scene(np.random.default_rng(6), (96, 64))
    turned = Placement((96, 64), (64, 96), (0, 0), (64, 96), turns=1, flip_x=True)
    np.testing.assert_array_equal(turned.apply(image), np.rot90(image)[:, ::-1])
    np.testing.assert_array_equal(turned.apply_mask(mask), np.rot90(mask)[:, ::-1])
    upside_down = Placement((96, 64), (96, 64), (0, 0), (96, 64), flip_y=True)
    np.testing.assert_array_equal(upside_down.apply(image), image[::-1])


def test_large_scale_jitter_covers_its_range_crops_and_pads():
    rng = np.random.default_rng(7)
    draws = [
        draw_placement((300, 400), 128, Augmentation(scale=(0.1, 2.0)), rng) for _ in range(2000)
    ]
    scales = np.array([max(draw.resized) / 128 for draw in draws])
    assert scales.min() < 0.13 and scales.max() > 1.97 and abs(scales.mean() - 1.05) < 0.04
    assert all(max(draw.size) <= 128 for draw in draws)
    offsets = np.array(
        [draw.offset[1] / (draw.resized[1] - 128) for draw in draws if draw.resized[1] > 140]
    )
    assert offsets.min() < 0.05 and offsets.max() > 0.95 and abs(offsets.mean() - 0.5) < 0.04
    flips = np.mean(
        [draw_placement((9, 9), 9, Augmentation(flip=True), rng).flip_x for _ in range(1000)]
    )
    assert 0.44 < flips < 0.56


def test_sizes_of_large_scale_jitter_are_rounded_once():
    """detectron2's ResizeScale: round(side * min(scale * canvas / image))."""
    for seed in range(300):
        jitter = np.random.default_rng(seed).uniform(0.1, 2.0)
        rng = np.random.default_rng(seed)
        augmentation = Augmentation(scale=(0.1, 2.0), flip=False)
        found = draw_placement((427, 640), 1024, augmentation, rng).resized
        scale = min(jitter * 1024 / 427, jitter * 1024 / 640)
        assert found == tuple(np.round(np.multiply((427, 640), scale)).astype(int))


def test_color_jitter_keeps_order_and_stays_in_range():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rng = np.random.default_rng(8)
    for _ in range(20):
        jittered = jitter_colors(image, Augmentation(brightness=0.3, contrast=0.4), rng)
        assert jittered.dtype == np.uint8 and (np.diff(jittered.ravel().astype(int)) >= 0).all()
    assert jitter_colors(image, Augmentation(), rng) is image
    shifted = jitter_colors(image, Augmentation(brightness=0.3), rng).astype(int) - image
    assert len(np.unique(shifted[4:12])) == 1 and abs(shifted[8, 8]) <= 77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotate": True}, "unknown augmentation rotate; there are scale, short_sides"),
        ({"scale": (0, 2)}, "0 < low <= high"),
        ({"scale": (2, 1)}, "0 < low <= high"),
        ({"brightness": 2.0}, "brightness lies in 0..1"),
    ],
)
def test_invalid_augmentations_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation.from_dict(options)
