"""Logits of a full-size mask, as a SAM takes them for `mask_input`."""

import types

import numpy as np
import pytest

from segjax.masks import as_mask_input

MODEL = types.SimpleNamespace(canvas=64, mask_side=16)


def test_cells_have_the_logit_of_their_covered_share():
    mask = np.zeros((32, 64), bool)  # fills the canvas's width: cells of 4 x 4 pixels
    mask[:8, :6] = True  # columns 0 and half of 1, rows 0 and 1
    mask[9, 8] = True  # one pixel of 16
    logits = as_mask_input(mask, MODEL)
    assert logits.shape == (1, 16, 16) and logits.dtype == np.float32
    np.testing.assert_array_equal(logits[0, :2, 0], [10, 10])
    np.testing.assert_allclose(logits[0, :2, 1], 0, atol=1e-6)
    np.testing.assert_allclose(logits[0, 2, 2], np.log(1 / 15), rtol=1e-5)
    assert (logits[0, 8:] == -10).all()  # beside the image


@pytest.mark.parametrize("hw", [(48, 64), (640, 427), (17, 90), (1, 200), (64, 64)])
def test_the_mask_comes_back_at_the_resolution_of_the_cells(hw):
    y, x = np.mgrid[: hw[0], : hw[1]]
    mask = ((y / hw[0] - 0.5) ** 2 + (x / hw[1] - 0.5) ** 2) < 0.1
    logits = as_mask_input(mask.astype(np.uint8) * 255, MODEL)[0]
    scale = MODEL.mask_side / max(hw)
    cells = np.minimum((np.stack([y, x]) + 0.5) * scale, 15).astype(int)
    found = logits[cells[0], cells[1]] > 0
    assert (found != mask).mean() < 0.15


@pytest.mark.parametrize(
    "mask", [np.full((4, 4), 0.3), np.ones((1, 4, 4)), np.zeros((0, 3)), np.array([["a"]])]
)
def test_other_arrays_are_refused(mask):
    with pytest.raises(ValueError, match=r"mask is .* of shape .*; expected True and False, or 0"):
        as_mask_input(mask, MODEL)
