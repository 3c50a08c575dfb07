"""Masks with their names."""

import numpy as np
import pytest

from segjax.viz import PALETTE, draw_named_masks
from segjax.viz.named_masks import _find_middle

IMAGE = np.full((200, 300, 3), 90, np.uint8)
LEFT, RIGHT, SMALL = np.zeros((3, 200, 300), bool)
LEFT[:, :150], RIGHT[:, 150:], SMALL[20:32, 20:32] = True, True, True


def count_pixels(drawn, color):
    return int((drawn == np.array(color, np.uint8)).all(-1).sum())


def test_classes_have_colors_and_small_masks_lie_on_top():
    drawn = draw_named_masks(IMAGE, [SMALL, LEFT, RIGHT], [2, 0, 1], ["cup", "table", "spoon"])
    scale = drawn.shape[0] // 200
    assert drawn.shape == (200 * scale, 300 * scale, 3)
    mix = lambda color: (0.55 * 90 + 0.45 * np.array(color)).round()
    for (y, x), index in (((10, 10), 0), ((10, 290), 1), ((25, 25), 2)):
        pixel = drawn[y * scale + scale // 2, x * scale + scale // 2].astype(float)
        np.testing.assert_allclose(pixel, mix(PALETTE[index]), atol=2)


def test_names_are_written_where_their_masks_are():
    with_names = draw_named_masks(IMAGE, [LEFT], [0], ["cup"], [0.5])
    assert count_pixels(with_names[:, 150 * (with_names.shape[1] // 300) :], PALETTE[0]) == 0
    tiny = np.zeros_like(LEFT)
    tiny[5:8, 5:8] = True  # too small for a name
    assert count_pixels(draw_named_masks(IMAGE, [tiny], [0], ["cup"]), PALETTE[0]) < 500
    assert count_pixels(with_names, PALETTE[0]) > 500


def test_nothing_to_draw_is_the_image():
    drawn = draw_named_masks(IMAGE, [], [], ["cup"])
    assert (drawn == 90).all()
    with pytest.raises(ValueError, match="expected one per mask"):
        draw_named_masks(IMAGE, [LEFT], [], ["cup"])


def test_the_middle_is_inside():
    ring = LEFT & ~SMALL
    x, y = _find_middle(ring)
    assert ring[y, x]
