"""Encoding of keypoints as cells, and decoding of heatmaps."""

import jax
import numpy as np
import pytest

from segjax.ops.keypoints import decode_keypoints, encode_keypoints
from segjax.ops.positions import resize_bicubic

decode = jax.jit(decode_keypoints)
cells = jax.jit(encode_keypoints, static_argnums=2)


def test_cells_by_hand():
    """A box of 28 x 112 under 56 x 56 cells has two cells per pixel across and half a cell down."""
    box = np.array([[10, 20, 38, 132]], np.float32)
    x, y, known = np.array(
        [
            (10, 20, 2),
            (37.9, 131.9, 1),
            (38, 132, 1),
            (10.5, 22, 1),
            (24, 76, 0),
            (9.9, 50, 1),
            (20, 132.1, 1),
        ]
    ).T
    cell, valid = cells(np.stack([x, y, known], -1)[None].astype(np.float32), box, 56)
    np.testing.assert_array_equal(valid[0], [True, True, True, True, False, False, False])
    np.testing.assert_array_equal(
        np.asarray(cell[0])[:4], [0, 55 * 56 + 55, 55 * 56 + 55, 1 * 56 + 1]
    )
    assert (
        cell.dtype == np.int32
        and (np.asarray(cell) >= 0).all()
        and (np.asarray(cell) < 56 * 56).all()
    )


def test_a_degenerate_box_has_no_keypoints():
    keypoints = np.array([[[3, 4, 2]]], np.float32)
    cell, valid = cells(keypoints, np.array([[3, 4, 3, 9]], np.float32), 8)
    assert not valid.any() and not cell.any()


def test_decoding_inverts_encoding():
    """To within half a cell."""
    rng = np.random.default_rng(0)
    boxes = np.array([[10, 20, 66, 188], [5.5, 3.25, 17, 29], [0, 0, 300, 70]], np.float32)
    xy = (
        boxes[:, None, :2]
        + rng.uniform(0.1, 0.9, (3, 4, 2)) * (boxes[:, 2:] - boxes[:, :2])[:, None]
    )
    cell, valid = cells(np.concatenate([xy, np.ones((3, 4, 1))], -1), boxes, 14)
    assert valid.all()
    heatmaps = (
        np.moveaxis(10.0 * np.eye(14 * 14)[cell], -1, 1).reshape(3, 14, 14, 4).astype(np.float32)
    )
    found = np.asarray(decode(heatmaps, boxes).xy)
    half_a_cell = (boxes[:, 2:] - boxes[:, :2])[:, None] / 14 / 2
    assert (
        abs(found - xy) <= half_a_cell + 0.5
    ).all()  # and the half pixel that a pixel's centre is


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_peak_of_the_enlarged_heatmap(seed):
    """Boxes of one and of several tiles, and one that is less than a pixel wide."""
    rng = np.random.default_rng(seed)
    heatmaps = rng.normal(size=(5, 14, 14, 4)).astype(np.float32) * 3
    corner, side = rng.uniform(-20, 50, (5, 2)), rng.uniform(3, 150, (5, 2))
    side[0] = 0.3, 70
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    found = decode(heatmaps, boxes)
    for region, (heatmap, box) in enumerate(zip(heatmaps, boxes, strict=True)):
        extent = np.maximum(box[2:] - box[:2], 1)
        width, height = np.ceil(extent).astype(int)
        enlarged = resize_bicubic(heatmap, (height, width))
        for point in range(4):
            row, column = np.unravel_index(np.argmax(enlarged[..., point]), (height, width))
            xy = (np.array([column, row]) + 0.5) * extent / [width, height] + box[:2]
            np.testing.assert_allclose(found.xy[region, point], xy, atol=1e-3)
            peak = enlarged[row, column, point]
            np.testing.assert_allclose(found.logit[region, point], peak, atol=1e-4)
            share = np.exp(peak) / np.exp(heatmap[..., point]).sum()
            np.testing.assert_allclose(found.score[region, point], share, rtol=1e-3)


def test_a_flat_heatmap_and_degenerate_boxes():
    """The first pixel wins ties. Each of 196 cells has an equal share of the probability."""
    boxes = np.array(
        [[10, 20, 30, 40], [np.nan, 0, 9, 9], [0, 0, np.inf, 9], [9, 9, 2, 2], [0, 0, 3, 3]],
        np.float32,
    )
    found = decode(np.zeros((5, 14, 14, 4), np.float32), boxes)
    assert np.isfinite(found.xy).all()
    np.testing.assert_allclose(found.score, 1 / 196, rtol=1e-5)


def test_vmapped_images_and_no_boxes():
    rng = np.random.default_rng(2)
    heatmaps = rng.normal(size=(2, 5, 14, 14, 4)).astype(np.float32)
    boxes = np.tile(np.array([10, 20, 97.3, 131], np.float32), (2, 5, 1)) + rng.uniform(
        0, 9, (2, 5, 4)
    )
    boxes = boxes.astype(np.float32)
    found = jax.jit(jax.vmap(decode_keypoints))(heatmaps, boxes)
    np.testing.assert_allclose(found.xy[1], decode(heatmaps[1], boxes[1]).xy, atol=1e-4)
    assert decode(np.zeros((0, 14, 14, 4)), np.zeros((0, 4))).xy.shape == (0, 4, 2)
