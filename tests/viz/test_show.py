"""One call that draws what segjax returns."""

import numpy as np
import pytest

from segjax import viz
from segjax.masks import encode_mask
from segjax.viz.drawing import FOREGROUND, PALETTE

IMAGE = np.full((48, 64, 3), 100, np.uint8)
MASK = np.zeros((48, 64), bool)
MASK[10:30, 20:50] = True


def test_arrays_records_and_run_lengths_are_drawn_alike(tmp_path):
    rle = {"size": [48, 64], "counts": encode_mask(MASK)}
    expected = viz.draw_masks(IMAGE, MASK)
    forms = [MASK, MASK[None], [{"segmentation": MASK, "area": 600}], [{"segmentation": rle}]]
    for masks in forms:
        np.testing.assert_array_equal(np.asarray(viz.show(IMAGE, masks)), expected)
    np.testing.assert_array_equal(np.asarray(viz.show(IMAGE)), IMAGE)
    np.testing.assert_array_equal(np.asarray(viz.show(IMAGE, [])), IMAGE)
    viz.show(IMAGE, MASK, save=tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").stat().st_size


def test_prompts_are_those_of_the_predictor():
    one = np.asarray(viz.show(IMAGE, MASK, {"point_coords": [[30, 20]], "point_labels": [1]}))
    np.testing.assert_allclose(one[20, 30].astype(int), FOREGROUND, atol=5)
    assert (one[10, 21:49] == PALETTE[0]).all()
    # Three candidates of one prompt: the first is drawn. Two prompts: one mask each.
    three = np.asarray(viz.show(IMAGE, [MASK, ~MASK, ~MASK], {"box": [20, 10, 50, 30]}))
    assert (three[40, 1] == 100).all() and (three[29, 21:49] == PALETTE[0]).all()
    two = np.asarray(viz.show(IMAGE, [MASK, MASK], {"boxes": [[20, 10, 50, 30], [1, 35, 9, 45]]}))
    assert (two[44, 1:9] == PALETTE[1]).all()
    only = np.asarray(viz.show(IMAGE, None, {"box": [20, 10, 50, 30]}))
    assert (only[29, 21:49] == PALETTE[0]).all()


def test_the_result_of_a_detector_has_names():
    result = {
        "boxes": np.array([[20, 10, 50, 30]], np.float32),
        "labels": np.array([2]),
        "scores": np.array([0.9], np.float32),
        "masks": MASK[None],
    }
    pixels = np.asarray(viz.show(IMAGE, result, names=["cat", "dog"]))
    assert (pixels[29, 21:49] == PALETTE[0]).all()


@pytest.mark.parametrize(
    ("masks", "prompts", "message"),
    [
        (MASK[:5], None, "do not fit an image"),
        ({"masks": MASK}, None, "has 'boxes'"),
        (MASK, {"points": [[1, 2]]}, r"prompts has \['points'\]"),
        (MASK, {"point_coords": [[1, 2]], "boxes": np.zeros((2, 4))}, "2 boxes beside"),
        ([MASK], {"boxes": np.zeros((2, 4))}, "1 masks for 2 objects"),
    ],
)
def test_what_does_not_fit_is_an_error(masks, prompts, message):
    with pytest.raises(ValueError, match=message):
        viz.show(IMAGE, masks, prompts)
