import functools

import jax
import numpy as np
import pytest

from segjax.losses import promptable
from segjax.losses.promptable import PromptableLoss

# Compiled whole, and of NumPy's arrays: operations one by one would be hundreds of programs.
focal_loss = jax.jit(promptable.focal_loss, static_argnames="normalise")
dice_loss = jax.jit(promptable.dice_loss)
RNG = np.random.default_rng(0)
LOGITS = (4 * RNG.standard_normal((2, 3, 5, 6))).astype(np.float32)
TRUTH = RNG.integers(0, 2, (2, 1, 5, 6))


def focal_pixels(logits, ground_truth, alpha, gamma):
    """Computes the paper's formula in float64: -alpha_t (1 - p_t)^gamma log(p_t)."""
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    p_t = np.where(ground_truth > 0, p, 1 - p)
    return np.where(ground_truth > 0, alpha, 1 - alpha) * (1 - p_t) ** gamma * -np.log(p_t)


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.5, 0.0), (0.9, 1.0), (0.25, 3.5)])
def test_focal_is_the_formula(alpha, gamma):
    expected = focal_pixels(LOGITS, TRUTH, alpha, gamma).mean((-2, -1))
    ours = focal_loss(LOGITS, TRUTH, alpha=alpha, gamma=gamma)
    assert ours.shape == (2, 3)
    np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_focal_defaults_and_a_case_by_hand():
    """Logits of 0: foreground costs 0.25 * 0.25 * log 2, background three times that."""
    zeros = np.zeros((2, 2))
    assert focal_loss(zeros, np.ones((2, 2))) == pytest.approx(0.25 * 0.25 * np.log(2), rel=1e-6)
    assert focal_loss(zeros, zeros) == pytest.approx(0.75 * 0.25 * np.log(2), rel=1e-6)
    np.testing.assert_allclose(
        focal_loss(LOGITS, TRUTH), focal_loss(LOGITS, TRUTH, alpha=0.25, gamma=2.0)
    )


def test_focal_by_area():
    pixels = focal_pixels(LOGITS, TRUTH, 0.25, 2.0)
    expected = pixels.sum((-2, -1)) / (4 * TRUTH.sum((-2, -1)))
    np.testing.assert_allclose(focal_loss(LOGITS, TRUTH, normalise="area"), expected, rtol=2e-5)
    assert np.isfinite(focal_loss(LOGITS, np.zeros_like(TRUTH), normalise="area")).all()


def test_focal_by_difficulty():
    """Weights (1 - p_t)^gamma sum to the number of pixels, and their scale has no gradient."""
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    weight = np.where(TRUTH > 0, 1 - p, p) ** 2
    scale = weight.shape[-1] * weight.shape[-2] / weight.sum((-2, -1))
    expected = scale * focal_pixels(LOGITS, TRUTH, 0.25, 2.0).mean((-2, -1))
    np.testing.assert_allclose(
        focal_loss(LOGITS, TRUTH, normalise="difficulty"), expected, rtol=2e-5
    )
    gradient = jax.jit(jax.grad(lambda x: focal_loss(x, TRUTH, normalise="difficulty").sum()))(
        LOGITS
    )
    plain = jax.jit(jax.grad(lambda x: focal_loss(x, TRUTH).sum()))(LOGITS)
    np.testing.assert_allclose(gradient, scale[..., None, None] * plain, rtol=1e-4, atol=1e-7)


def test_unknown_normalization():
    with pytest.raises(ValueError, match="'median'.*mean, area, difficulty"):
        focal_loss(LOGITS, TRUTH, normalise="median")


@functools.cache
def with_gradient(loss, **options):
    compiled = jax.jit(jax.value_and_grad(functools.partial(loss, **options)))
    return lambda *arguments, **options: jax.device_get(compiled(*arguments, **options))


@pytest.mark.parametrize("normalise", ["mean", "area", "difficulty"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_extreme_logits_stay_finite(normalise, gamma):
    """Values and gradients are finite at extreme confidence, and wrong pixels have a gradient."""
    logits = np.array([[-1e4, 1e4, -200.0, 200.0], [-1e4, 1e4, 0.0, -0.0]])
    ground_truth = np.array([[0, 1, 1, 0], [1, 0, 1, 0]])
    value, gradient = with_gradient(focal_loss, normalise=normalise)(
        logits, ground_truth, gamma=gamma
    )
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert gradient[1, 0] < 0 < gradient[1, 1]
    value, gradient = with_gradient(dice_loss)(logits, ground_truth)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_dice_by_hand():
    sure = np.array([[1e3, 1e3, -1e3, -1e3]])
    assert dice_loss(sure, np.array([[1, 1, 0, 0]])) == pytest.approx(0, abs=1e-6)
    assert dice_loss(sure, np.array([[0, 0, 1, 1]])) == pytest.approx(1 - 1 / 5)
    assert dice_loss(sure, np.array([[0, 1, 1, 0]])) == pytest.approx(1 - 3 / 5)
    assert dice_loss(-np.abs(sure), np.zeros((1, 4), int)) == pytest.approx(
        0
    )  # an empty mask and an empty prediction
    assert dice_loss(np.zeros((1, 4)), np.ones((1, 4), int)) == pytest.approx(
        1 - (2 * 2 + 1) / (2 + 4 + 1)
    )


@functools.cache
def scored(**options):
    compiled = jax.jit(PromptableLoss(**options))
    return lambda *arguments: jax.device_get(compiled(*arguments))


def best_masks(**options):
    """Returns the index of the mask with the lowest loss at default weights."""
    focal, dice = (
        np.asarray(focal_loss(LOGITS, TRUTH, **options)),
        np.asarray(dice_loss(LOGITS, TRUTH)),
    )
    return (20 * focal + dice).argmin(-1)


def test_loss_is_twenty_focal_plus_dice_of_the_best_mask_plus_iou_loss():
    iou = RNG.random((2, 3)).astype(np.float32)
    terms = scored()(LOGITS, iou, TRUTH[:, 0])
    focal, dice = np.asarray(focal_loss(LOGITS, TRUTH)), np.asarray(dice_loss(LOGITS, TRUTH))
    best = (20 * focal + dice).argmin(-1)
    rows = np.arange(2)
    np.testing.assert_allclose(terms["focal"], focal[rows, best])
    np.testing.assert_allclose(terms["dice"], dice[rows, best])
    predicted, ground_truth = LOGITS > 0, TRUTH > 0
    actual = (predicted & ground_truth).sum((-2, -1)) / (predicted | ground_truth).sum((-2, -1))
    error = (iou - actual) ** 2
    np.testing.assert_allclose(terms["iou_error"], error.mean(-1), rtol=1e-5)
    np.testing.assert_allclose(
        terms["loss"], (20 * focal + dice)[rows, best] + error.mean(-1), rtol=1e-5
    )


@pytest.mark.parametrize("iou_on", ["all", "best"])
def test_mask_gradient_flows_through_the_best_mask_only(iou_on):
    iou = RNG.random((2, 3)).astype(np.float32)
    score = PromptableLoss(iou_on=iou_on)
    best = best_masks()
    gradient = jax.jit(jax.grad(lambda x, y: score(x, y, TRUTH[:, 0])["loss"].sum(), (0, 1)))
    to_logits, to_iou = map(np.asarray, gradient(LOGITS, iou))
    is_best = np.arange(3) == best[:, None]
    assert (to_logits[~is_best] == 0).all()
    assert (np.abs(to_logits).max((-2, -1))[is_best] > 1e-4).all()
    assert ((to_iou != 0) == (is_best if iou_on == "best" else True)).all()


def test_iou_target_carries_no_gradient_to_the_mask():
    only_iou = PromptableLoss(focal_weight=0.0, dice_weight=0.0)
    gradient = jax.jit(
        jax.grad(lambda x: only_iou(x, np.zeros((2, 3)), TRUTH[:, 0])["loss"].sum())
    )(LOGITS)
    assert (np.asarray(gradient) == 0).all()


def test_weights_and_options():
    iou = np.zeros((2, 3))
    terms = scored(focal_weight=3.0, dice_weight=0.5, iou_weight=7.0)(LOGITS, iou, TRUTH[:, 0])
    expected = 3 * terms["focal"] + 0.5 * terms["dice"] + 7 * terms["iou_error"]
    np.testing.assert_allclose(terms["loss"], expected, rtol=1e-6)
    by_area = scored(focal_normalise="area", focal_alpha=0.5, focal_gamma=1.0)(
        LOGITS, iou, TRUTH[:, 0]
    )
    focal = focal_loss(LOGITS, TRUTH, alpha=0.5, gamma=1.0, normalise="area")
    best = best_masks(alpha=0.5, gamma=1.0, normalise="area")
    np.testing.assert_allclose(by_area["focal"], np.asarray(focal)[np.arange(2), best], rtol=1e-6)
    with pytest.raises(ValueError, match="iou_on is 'some'"):
        PromptableLoss(iou_on="some")


def test_absolute_iou_error():
    iou = RNG.random((2, 3)).astype(np.float32)
    predicted, ground_truth = LOGITS > 0, TRUTH > 0
    actual = (predicted & ground_truth).sum((-2, -1)) / (predicted | ground_truth).sum((-2, -1))
    terms = scored(iou_norm="absolute")(LOGITS, iou, TRUTH[:, 0])
    np.testing.assert_allclose(terms["iou_error"], np.abs(iou - actual).mean(-1), rtol=1e-5)
    with pytest.raises(ValueError, match="iou_norm is 'cubed'"):
        PromptableLoss(iou_norm="cubed")


def test_a_single_mask():
    terms = scored()(LOGITS[:, :1], np.ones((2, 1)), TRUTH[:, 0])
    np.testing.assert_allclose(terms["focal"], focal_loss(LOGITS[:, 0], TRUTH[:, 0]), rtol=1e-6)
