"""Pasting by both rules: closed forms, and the steps of the reference pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.resize import linear_weights
from segjax.ops.roi.paste_masks import paste_mask_on_host, paste_masks

CANVAS = (37, 50)
RULES = ("grid", "integer")
paste = jax.jit(paste_masks, static_argnums=2, static_argnames=("rule", "threshold", "chunk"))


def plain_grid(mask, box, canvas):
    """Interpolates the mask, with zeros around it, at the center of each pixel."""
    pasted, padded, cells = np.zeros(canvas), np.pad(mask, 2), len(mask)
    for y, x in np.ndindex(*canvas):
        row = (y + 0.5 - box[1]) / (box[3] - box[1]) * cells - 0.5
        column = (x + 0.5 - box[0]) / (box[2] - box[0]) * cells - 0.5
        if -1 < row < cells and -1 < column < cells:
            top, left = int(np.floor(row)), int(np.floor(column))
            taps = padded[top + 2 : top + 4, left + 2 : left + 4]
            y_share, x_share = row - top, column - left
            pasted[y, x] = (
                np.array([1 - y_share, y_share]) @ taps @ np.array([1 - x_share, x_share])
            )
    return pasted


def plain_integer(mask, box, canvas):
    """Pads by a cell, enlarges the box, truncates it, resizes to whole pixels, copies the part."""
    cells = len(mask)
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * (cells + 2) / cells
    (x1, y1), (x2, y2) = np.trunc(centre - half).astype(int), np.trunc(centre + half).astype(int)
    height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    resized = (
        linear_weights(cells + 2, height) @ np.pad(mask, 1) @ linear_weights(cells + 2, width).T
    )
    pasted = np.zeros(canvas)
    for y in range(max(y1, 0), min(y2 + 1, canvas[0])):
        for x in range(max(x1, 0), min(x2 + 1, canvas[1])):
            pasted[y, x] = resized[y - y1, x - x1]
    return pasted


PLAIN = {"grid": plain_grid, "integer": plain_integer}


def random_case(seed, count=11, cells=7):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-15, 40, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.6, 40, (count, 2))], 1).astype(
        np.float32
    )
    boxes[0] = [-100, -100, 150, 150]
    return rng.random((count, cells, cells), np.float32), boxes


@pytest.mark.parametrize("rule", RULES)
def test_equals_the_rule_pixel_by_pixel_on_the_device_and_on_the_host(rule):
    """The chunk does not divide the number of masks. Boxes reach over the border or the image."""
    masks, boxes = random_case(0)
    pasted = np.asarray(paste(masks, boxes, CANVAS, rule=rule, chunk=4))
    assert pasted.dtype == np.float32
    for mask, box, found in zip(masks, boxes, pasted, strict=True):
        np.testing.assert_allclose(found, PLAIN[rule](mask, box, CANVAS), atol=2e-5)
        part, (row, column) = paste_mask_on_host(mask, box, CANVAS, rule=rule)
        whole = np.zeros(CANVAS, np.float32)
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        np.testing.assert_allclose(whole, found, atol=2e-5)
        assert part.dtype == np.float32 and part.size < whole.size or (box[:2] < 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_threshold(rule):
    masks, boxes = random_case(1)
    soft = np.asarray(paste(masks, boxes, CANVAS, rule=rule, chunk=4))
    hard = paste(masks, boxes, CANVAS, rule=rule, threshold=0.5)
    assert hard.dtype == bool
    clear = abs(soft - 0.5) > 1e-4
    np.testing.assert_array_equal(np.asarray(hard)[clear], (soft >= 0.5)[clear])
    part, (row, column) = paste_mask_on_host(masks[2], boxes[2], CANVAS, rule=rule, threshold=0.5)
    assert part.dtype == bool
    area = np.s_[row : row + part.shape[0], column : column + part.shape[1]]
    np.testing.assert_array_equal(part[clear[2][area]], np.asarray(hard)[2][area][clear[2][area]])


def test_a_full_mask_is_the_full_box():
    """With one pixel per cell, and with several, except for the corners, which border on zeros."""
    boxes = np.array([[3, 5, 10, 12], [5, 2, 33, 30]], np.float32)
    small, large = np.asarray(paste(np.ones((2, 7, 7), np.float32), boxes, CANVAS, threshold=0.5))
    wanted = np.zeros((2, *CANVAS), bool)
    wanted[0, 5:12, 3:10] = wanted[1, 2:30, 5:33] = True
    np.testing.assert_array_equal(small, wanted[0])
    assert not (large & ~wanted[1]).any()
    lost = np.argwhere(wanted[1] & ~large)
    assert 0 < len(lost) <= 4 * 3 and (np.abs(lost - [15.5, 18.5]) > 12).all()


def test_twice_the_size_gives_the_same_mask():
    masks, boxes = random_case(2)
    small = np.asarray(paste(masks, boxes[:, [0, 1, 2, 3]], CANVAS, chunk=4))
    large = np.asarray(paste(masks, 3 * boxes, (3 * CANVAS[0], 3 * CANVAS[1])))
    np.testing.assert_allclose(
        large[:, 1::3, 1::3], small, atol=1e-4
    )  # a pixel's centre is that of the middle one


@pytest.mark.parametrize("rule", RULES)
def test_boxes_that_are_not_finite_or_degenerate(rule):
    boxes = np.array(
        [[np.nan, 0, 9, 9], [0, 0, np.inf, 9], [4, 4, 20, 20]] + [[5, 5, 5, 9]] * 8, np.float32
    )
    pasted = np.asarray(paste(np.ones((11, 7, 7), np.float32), boxes, CANVAS, rule=rule, chunk=4))
    assert np.isfinite(pasted).all() and not pasted[:2].any() and pasted[2].any()
    assert rule == "integer" or not pasted[3].any()
    for box in boxes[:2]:
        assert paste_mask_on_host(np.ones((7, 7)), box, CANVAS, rule=rule)[0].size == 0


def test_vmapped_images_and_no_masks():
    masks, boxes = (np.stack(pair) for pair in zip(random_case(3), random_case(4), strict=True))
    pasted = jax.jit(jax.vmap(lambda masks, boxes: paste_masks(masks, boxes, CANVAS, chunk=4)))(
        masks, boxes
    )
    np.testing.assert_allclose(
        pasted[1], paste(masks[1], boxes[1], CANVAS, rule="grid", chunk=4), atol=1e-5
    )
    assert paste(np.zeros((0, 7, 7)), np.zeros((0, 4)), CANVAS).shape == (0, *CANVAS)
    assert paste(jnp.ones((1, 7, 7), jnp.bfloat16), boxes[0, :1], CANVAS).dtype == jnp.float32


def test_an_unknown_rule_raises_an_error():
    with pytest.raises(ValueError, match="'nearest'; choose one of grid, integer"):
        paste_masks(np.zeros((1, 7, 7)), np.zeros((1, 4)), CANVAS, rule="nearest")
