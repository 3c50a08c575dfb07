"""Targets from cropped masks and from full masks."""

import jax
import numpy as np
import pytest

from ops.plain_roi_align import roi_align as plain
from segjax.ops.masks import mask_iou
from segjax.ops.roi.mask_targets import (
    CONVENTIONS,
    compute_cropped_mask_targets,
    compute_mask_targets,
)
from segjax.ops.roi.paste_masks import paste_masks

CANVAS = (60, 80)
cropped = jax.jit(compute_cropped_mask_targets, static_argnums=4)
targets = jax.jit(compute_mask_targets, static_argnums=3, static_argnames="convention")

fit = jax.jit(
    lambda small, boxes, masks: mask_iou(paste_masks(small, boxes, CANVAS, threshold=0.5), masks)
)


def ellipses(count, seed=0):
    """Returns full masks [count, H, W], their boxes, and the masks cropped to them at 112 x 112."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: CANVAS[0], : CANVAS[1]] + 0.5
    masks, boxes, crops = [], [], []
    for _ in range(count):
        centre, radius, turn = (
            rng.uniform((20, 15), (60, 45)),
            rng.uniform(6, 20, 2),
            rng.uniform(0, np.pi),
        )
        along = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
        across = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
        mask = (along / radius[0]) ** 2 + (across / radius[1]) ** 2 < 1
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        place = (np.arange(112) + 0.5) / 112
        masks.append(mask)
        boxes.append(box)
        crops.append(
            mask[(box[1] + place * (box[3] - box[1])).astype(int)][
                :, (box[0] + place * (box[2] - box[0])).astype(int)
            ]
        )
    return np.array(masks), np.array(boxes, np.float32), np.array(crops)


def moved(boxes, seed=0):
    """Returns proposals: the boxes with every side moved by up to a fifth of the box."""
    shift = np.random.default_rng(seed).uniform(-0.2, 0.2, boxes.shape) * np.tile(
        boxes[:, 2:] - boxes[:, :2], 2
    )
    return (boxes + shift).astype(np.float32)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_full_masks_by_the_rule_in_loops(convention):
    masks, boxes, _ = ellipses(3)
    proposals = np.concatenate([moved(boxes), boxes[:1] - 15, [[70, 50, 100, 75]]]).astype(
        np.float32
    )
    matched = np.array([0, 1, 2, 0, 2])
    found = targets(masks, proposals, matched, 14, convention=convention)
    for target, proposal, mask in zip(np.asarray(found), proposals, matched, strict=True):
        features = masks[mask][:, :, None].astype(float)
        mean = plain(features, [proposal], (14, 14), 1, 0, convention == "detectron2")[0, :, :, 0]
        if convention == "torchvision":
            np.testing.assert_allclose(target, mean, atol=1e-4)
        else:
            clear = abs(mean - 0.5) > 1e-4
            np.testing.assert_array_equal(target[clear], (mean >= 0.5)[clear])
    assert found.dtype == np.float32


def test_the_target_of_the_own_box_is_the_smaller_crop():
    crops = np.random.default_rng(0).random((1, 28, 28)) < 0.5
    crops = crops.repeat(4, 1).repeat(4, 2)
    box = np.array([[3.5, 8.25, 33.5, 90]], np.float32)
    np.testing.assert_array_equal(cropped(crops, box, box, np.array([0]), 28), crops[:, ::4, ::4])


def test_a_quarter_of_the_box_and_twice_the_box():
    """The mask is 1 in the box and 0 outside. Its edge lies between two cells of the target."""
    box = np.array([[10, 20, 30, 60]], np.float32)
    proposals = np.array([[10, 20, 20, 40], [0, 0, 40, 80], [50, 20, 70, 60]], np.float32)
    found = np.asarray(cropped(np.ones((1, 112, 112), bool), box, proposals, np.zeros(3, int), 28))
    expected = np.zeros((3, 28, 28))
    expected[0], expected[1, 7:21, 7:21] = 1, 1
    np.testing.assert_array_equal(found, expected)


def test_crops_agree_with_full_masks():
    """Some cells of the outline differ, since a crop is rounded to the grid of its box."""
    masks, boxes, crops = ellipses(20)
    proposals, matched = moved(boxes), np.arange(20)
    whole = targets(masks, proposals, matched, 28, convention="detectron2")
    differ = (np.asarray(cropped(crops, boxes, proposals, matched, 28)) != whole).mean()
    assert differ < 0.02


@pytest.mark.parametrize("way", ["whole", "cropped"])
def test_pasted_targets_equal_the_mask(way):
    """detectron2 asks for a mean IoU of 0.95 (tests/layers/test_mask_ops.py)."""
    masks, boxes, crops = ellipses(20, seed=1)
    proposals = np.clip(moved(boxes) + np.float32([-4, -4, 4, 4]), 0, np.float32(CANVAS[::-1] * 2))
    matched = np.arange(20)
    if way == "whole":
        small = targets(masks, proposals, matched, 28, convention="detectron2")
    else:
        small = cropped(crops, boxes, proposals, matched, 28)
    assert fit(small, proposals, masks).mean() > 0.95


def test_empty_targets():
    masks, boxes, crops = ellipses(2)
    empty = np.array([[5, 5, 5, 5], [9, 9, 2, 2]], np.float32)
    for target in (
        cropped(crops, boxes, empty, np.zeros(2, int), 28),
        cropped(crops, empty, boxes, np.arange(2), 28),
    ):
        assert np.isfinite(target).all() and not target.any()
    assert targets(
        masks, np.zeros((0, 4), np.float32), np.zeros(0, int), 14, convention="detectron2"
    ).shape == (
        0,
        14,
        14,
    )
    assert cropped(crops, boxes, np.zeros((0, 4), np.float32), np.zeros(0, int), 28).shape == (
        0,
        28,
        28,
    )


def test_vmapped_images():
    parts = [ellipses(3, seed) for seed in (2, 3)]
    masks, boxes, crops = (np.stack(part) for part in zip(*parts, strict=True))
    proposals, matched = (
        moved(boxes.reshape(-1, 4)).reshape(2, 3, 4),
        np.array([[0, 1, 2], [2, 2, 0]]),
    )
    found = jax.jit(jax.vmap(lambda *image: compute_cropped_mask_targets(*image, 28)))(
        crops, boxes, proposals, matched
    )
    np.testing.assert_array_equal(
        found[1], cropped(crops[1], boxes[1], proposals[1], matched[1], 28)
    )
    found = jax.jit(jax.vmap(lambda *image: compute_mask_targets(*image, 14)))(
        masks, proposals, matched
    )
    alone = targets(masks[1], proposals[1], matched[1], 14, convention="detectron2")
    np.testing.assert_array_equal(found[1], alone)


def test_no_gradient_flows_into_proposals():
    masks, boxes, crops = ellipses(2)
    value = lambda proposals: (
        compute_mask_targets(masks, proposals, np.arange(2), 14, convention="torchvision").sum()
        + compute_cropped_mask_targets(crops, boxes, proposals, np.arange(2), 14).sum()
    )
    assert not jax.jit(jax.grad(value))(boxes).any()


def test_an_unknown_convention_raises_an_error():
    with pytest.raises(ValueError, match="'mmdet'; choose one of detectron2, torchvision"):
        compute_mask_targets(
            np.zeros((1, 9, 9)), np.zeros((1, 4)), np.zeros(1, int), convention="mmdet"
        )
