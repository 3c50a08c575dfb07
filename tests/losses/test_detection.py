"""Losses of detectors in closed form (arXiv 1703.06870, section 3)."""

import jax
import numpy as np
import pytest

from segjax.losses import detection

ROWS = np.random.default_rng(0)
# Compiled as a whole, and with NumPy arrays: single operations would be hundreds of programs.
smooth_l1 = jax.jit(detection.smooth_l1, static_argnums=1)
proposal_losses = jax.jit(detection.proposal_losses, static_argnums=5)
region_losses = jax.jit(detection.region_losses, static_argnums=5)
mask_loss, keypoint_loss, select_class = map(
    jax.jit, (detection.mask_loss, detection.keypoint_loss, detection.select_class)
)


def test_smooth_l1_is_continuous():
    d = np.array([-2.0, -0.5, 0.0, 0.25, 0.5, 3.0])
    np.testing.assert_allclose(smooth_l1(d, 0.5), [1.75, 0.25, 0.0, 0.0625, 0.25, 2.75])
    np.testing.assert_allclose(smooth_l1(d, 0.0), np.abs(d))
    slope = jax.jit(jax.vmap(jax.grad(lambda x: smooth_l1(x, 0.5))))(d)
    np.testing.assert_allclose(slope, [-1, -1, 0, 0.5, 1, 1])


def test_losses_of_zero_logits():
    labels, valid = np.array([0, 2, 3]), np.ones(3, bool)
    scores, boxes = proposal_losses(
        np.zeros(3), np.zeros((3, 4)), np.zeros((3, 4)), labels > 0, valid, 1 / 9
    )
    assert scores == pytest.approx(3 * np.log(2)) and boxes == 0
    classes, boxes = region_losses(
        np.zeros((3, 4)), np.zeros((3, 3, 4)), np.ones((3, 4)), labels, valid, 0.0
    )
    assert (
        classes == pytest.approx(3 * np.log(4)) and boxes == 2 * 4
    )  # two objects, four deltas, off by one
    total, count = mask_loss(np.zeros((3, 28, 28, 3)), np.ones((3, 28, 28)), labels, labels > 0)
    assert total / count == pytest.approx(np.log(2)) and count == 2
    total, count = keypoint_loss(
        np.zeros((1, 56, 56, 2)), np.array([[0, 3135]]), np.array([[True, False]])
    )
    assert total == pytest.approx(np.log(56 * 56)) and count == 1


def test_only_the_own_class_learns_its_box_and_mask():
    deltas = ROWS.normal(size=(2, 3, 4)).astype(np.float32)
    labels, valid = np.array([3, 1]), np.ones(2, bool)
    exact = np.stack([deltas[0, 2], deltas[1, 0]])
    assert region_losses(np.zeros((2, 4)), deltas, exact, labels, valid, 0.0)[1] == 0
    one_for_all = deltas[:, :1]
    assert (
        region_losses(np.zeros((2, 4)), one_for_all, one_for_all[:, 0], labels, valid, 0.0)[1] == 0
    )
    logits = np.full((1, 4, 4, 3), 50.0, np.float32)
    logits[..., 1] = -50.0
    total, _ = mask_loss(logits, np.zeros((1, 4, 4)), np.array([2]), np.ones(1, bool))
    assert total == pytest.approx(0, abs=1e-6)
    one = (np.ones((1, 4, 4)), np.array([2]), np.ones(1, bool))
    gradient = np.asarray(jax.jit(jax.grad(lambda x: mask_loss(x, *one)[0]))(logits))
    assert np.any(gradient[..., 1]) and not np.any(gradient[..., (0, 2)])


def test_labels_count_classes_from_1():
    values = np.arange(6.0).reshape(2, 3)
    assert select_class(values, np.array([1, 3])).tolist() == [0, 5]
    assert select_class(values, np.array([0, 2])).tolist() == [0, 4]
    assert select_class(values[:, :1], np.array([3, 2])).tolist() == [0, 3]


@pytest.mark.parametrize("which", ["proposals", "regions", "masks", "keypoints"])
def test_invalid_rows_have_no_loss_and_no_gradient(which):
    """As for an image without objects, or a padding image."""
    nothing = np.zeros(2, bool)
    losses = {
        "proposals": lambda x: proposal_losses(
            x[:, 0, 0, 0], x[:, 0, 0], x[:, 0, 1], nothing, nothing, 0.0
        ),
        "regions": lambda x: region_losses(
            x[:, 0, 0], x[:, 0, :3], x[:, 1, 0], np.zeros(2, int), nothing, 1.0
        ),
        "masks": lambda x: mask_loss(x, x[..., 0] > 0, np.ones(2, int), nothing),
        "keypoints": lambda x: keypoint_loss(x, np.full((2, 4), 99), np.zeros((2, 4), bool)),
    }[which]
    x = ROWS.normal(size=(2, 4, 4, 4)).astype(np.float32) * 100
    assert [float(part) for part in losses(x)] == [0, 0]
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: sum(losses(x))))(x), 0)


def test_the_background_has_a_class_but_no_box():
    logits = np.array([[2.0, 0.0, 0.0]])
    far = np.full((1, 2, 4), 9.0)
    classes, boxes = region_losses(
        logits, far, np.zeros((1, 4)), np.array([0]), np.ones(1, bool), 0.0
    )
    assert classes == pytest.approx(np.log(np.exp(2) + 2) - 2) and boxes == 0
