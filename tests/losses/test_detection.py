"""Losses of detection in closed form (arXiv 1703.06870, section 3; the numbers are derived in each test)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.losses.detection import (
    keypoint_loss,
    mask_loss,
    of_class,
    proposal_losses,
    region_losses,
    smooth_l1,
)

ROWS = np.random.default_rng(0)


def test_smooth_l1_meets_itself_where_it_turns_linear():
    d = jnp.array([-2.0, -0.5, 0.0, 0.25, 0.5, 3.0])
    np.testing.assert_allclose(smooth_l1(d, 0.5), [1.75, 0.25, 0.0, 0.0625, 0.25, 2.75])
    np.testing.assert_allclose(smooth_l1(d, 0.0), jnp.abs(d))
    slope = jax.vmap(jax.grad(lambda x: smooth_l1(x, 0.5)))(d)
    np.testing.assert_allclose(slope, [-1, -1, 0, 0.5, 1, 1])


def test_zero_logits_cost_ln_2_ln_of_the_classes_and_ln_of_the_cells():
    labels, valid = jnp.array([0, 2, 3]), jnp.ones(3, bool)
    scores, boxes = proposal_losses(jnp.zeros(3), jnp.zeros((3, 4)), jnp.zeros((3, 4)), labels > 0, valid, 1 / 9)
    assert scores == pytest.approx(3 * np.log(2)) and boxes == 0
    classes, boxes = region_losses(jnp.zeros((3, 4)), jnp.zeros((3, 3, 4)), jnp.ones((3, 4)), labels, valid, 0.0)
    assert classes == pytest.approx(3 * np.log(4)) and boxes == 2 * 4  # two objects, four deltas, off by one
    total, count = mask_loss(jnp.zeros((3, 28, 28, 3)), jnp.ones((3, 28, 28)), labels, labels > 0)
    assert total / count == pytest.approx(np.log(2)) and count == 2
    total, count = keypoint_loss(jnp.zeros((1, 56, 56, 2)), jnp.array([[0, 3135]]), jnp.array([[True, False]]))
    assert total == pytest.approx(np.log(56 * 56)) and count == 1


def test_only_the_true_class_is_asked_for_its_box_and_mask():
    deltas = ROWS.normal(size=(2, 3, 4)).astype(np.float32)
    labels = jnp.array([3, 1])
    exact = jnp.stack([deltas[0, 2], deltas[1, 0]])
    assert region_losses(jnp.zeros((2, 4)), deltas, exact, labels, jnp.ones(2, bool), 0.0)[1] == 0
    one_for_all = deltas[:, :1]
    assert region_losses(jnp.zeros((2, 4)), one_for_all, one_for_all[:, 0], labels, jnp.ones(2, bool), 0.0)[1] == 0
    logits = jnp.full((1, 4, 4, 3), 50.0).at[..., 1].set(-50.0)
    total, _ = mask_loss(logits, jnp.zeros((1, 4, 4)), jnp.array([2]), jnp.ones(1, bool))
    assert total == pytest.approx(0, abs=1e-6)
    gradient = jax.grad(lambda x: mask_loss(x, jnp.ones((1, 4, 4)), jnp.array([2]), jnp.ones(1, bool))[0])(logits)
    assert np.any(gradient[..., 1]) and not np.any(gradient[..., (0, 2)])


def test_of_class_counts_classes_from_one_behind_the_background():
    values = jnp.arange(6.0).reshape(2, 3)
    assert of_class(values, jnp.array([1, 3])).tolist() == [0, 5]
    assert of_class(values, jnp.array([0, 2])).tolist() == [0, 4]
    assert of_class(values[:, :1], jnp.array([3, 2])).tolist() == [0, 3]


@pytest.mark.parametrize("which", ["proposals", "regions", "masks", "keypoints"])
def test_nothing_valid_costs_exactly_nothing_and_moves_nothing(which):
    """A picture without objects, or one that is all padding."""
    nothing = jnp.zeros(2, bool)
    losses = {
        "proposals": lambda x: proposal_losses(x[:, 0, 0, 0], x[:, 0, 0], x[:, 0, 1], nothing, nothing, 0.0),
        "regions": lambda x: region_losses(x[:, 0, 0], x[:, 0, :3], x[:, 1, 0], jnp.zeros(2, int), nothing, 1.0),
        "masks": lambda x: mask_loss(x, x[..., 0] > 0, jnp.ones(2, int), nothing),
        "keypoints": lambda x: keypoint_loss(x, jnp.full((2, 4), 99), jnp.zeros((2, 4), bool)),
    }[which]
    x = jnp.asarray(ROWS.normal(size=(2, 4, 4, 4)), jnp.float32) * 100
    assert [float(part) for part in losses(x)] == [0, 0]
    np.testing.assert_array_equal(jax.grad(lambda x: sum(losses(x)))(x), 0)


def test_the_background_has_a_class_but_no_box():
    logits = jnp.array([[2.0, 0.0, 0.0]])
    far = jnp.full((1, 2, 4), 9.0)
    classes, boxes = region_losses(logits, far, jnp.zeros((1, 4)), jnp.array([0]), jnp.ones(1, bool), 0.0)
    assert classes == pytest.approx(np.log(np.exp(2) + 2) - 2) and boxes == 0
