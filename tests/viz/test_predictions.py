"""Drawn predictions of prompts: colors, numbers, candidates and empty masks."""

import numpy as np
import pytest

from segjax import viz
from segjax.viz.drawing import FOREGROUND, PALETTE


def make_gray(height=90, width=120):
    return np.full((height, width, 3), 100, np.uint8)


def make_mask(x1, y1, x2, y2, height=90, width=120):
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


BOXES = [
    {"points": [], "labels": [], "box": [10, 10, 50, 50]},
    {"points": [], "labels": [], "box": [60, 20, 110, 80]},
]


def count_pixels(image, color):
    return int((image == color).all(axis=2).sum())


def test_a_box_has_the_color_of_its_mask():
    masks = np.stack([make_mask(20, 20, 40, 40), make_mask(70, 40, 100, 70)])
    out = viz.draw_predictions(make_gray(), masks, BOXES)
    for mask, prompt, color in zip(masks, BOXES, PALETTE, strict=False):
        x1, y1, x2, y2 = prompt["box"]
        np.testing.assert_array_equal(out[y2 - 1, x1:x2], [color] * (x2 - x1))
        ys, xs = np.nonzero(mask)
        np.testing.assert_array_equal(out[ys.max(), xs.max()], color)
    assert not count_pixels(out, FOREGROUND)


def test_a_single_object_has_no_number_and_several_have():
    masks = np.stack([make_mask(20, 20, 40, 40), make_mask(70, 40, 100, 70)])
    one = viz.draw_predictions(make_gray(), masks[:1], BOXES[:1])
    both = viz.draw_predictions(make_gray(), masks, BOXES)
    # The field of the number is the only solid area of the color.
    assert count_pixels(both[10:30, 10:30], PALETTE[0]) > 2 * count_pixels(
        one[10:30, 10:30], PALETTE[0]
    )


def test_an_empty_mask_is_said_and_stays_in_the_image():
    prompt = {"points": [[118.0, 2.0]], "labels": [1], "box": None}
    empty = np.zeros((1, 90, 120), bool)
    out = viz.draw_predictions(make_gray(), empty, [prompt])
    assert count_pixels(out[:40], PALETTE[0]) > 200
    full = viz.draw_predictions(make_gray(), make_mask(0, 60, 5, 65)[None], [prompt])
    assert count_pixels(full[:40], PALETTE[0]) == 0
    with pytest.raises(ValueError, match="1 masks for 2 objects"):
        viz.draw_predictions(make_gray(), empty, BOXES)


def test_candidates_have_a_panel_each():
    masks = [np.stack([make_mask(5, 5, 20 + 10 * m, 60) for m in range(3)])] * 2
    scores = [np.array([0.5, 0.9, 0.1])] * 2
    sheet = viz.draw_candidate_sheet(make_gray(), masks, scores, BOXES)
    one = viz.draw_candidate_sheet(make_gray(), masks[:1], scores[:1], BOXES[:1])
    single = viz.draw_candidate_sheet(make_gray(), [masks[0][:1]], [scores[0][:1]], BOXES[:1])
    assert one.shape[1] == sheet.shape[1] > 3 * 256 > 2 * 256 > single.shape[1]
    # A row is a panel of 256 x 192 pixels with its caption.
    assert 192 < sheet.shape[0] - one.shape[0] < 192 + 60


def test_outlines_and_stars_grow_with_the_image():
    """A star covers 1/32 of the longer side, so it leaves the object below it visible."""
    for side in (640, 1920):
        image = make_gray(side, side)
        star = viz.draw_prompts(image, [[side // 2, side // 2]])
        ys, xs = np.nonzero((star != 100).any(axis=2))
        assert side / 40 < np.ptp(xs) < side / 24
        mask = make_mask(side // 4, side // 4, side // 2, side // 2, side, side)
        row = viz.draw_masks(image, mask, opacity=0.0)[side // 3]
        assert (row != 100).any(axis=1).sum() == 2 * round(side / 600)
