import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.losses.reconstruction import reconstruction_loss
from segjax.ops.patches import (
    compute_patch_statistics,
    extract_patches,
    make_patch_targets,
    render_prediction,
)
from segjax.ops.pixels import PIXEL_MEAN, PIXEL_STD

PATCH = 4
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
MASKED = np.array([[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0]], bool)


def by_hand(images):
    """Cuts images into patches [B, L, values], ordered by row, column, channel, in float64."""
    pixels = (images - PIXEL_MEAN.astype(np.float64)) / PIXEL_STD
    rows, columns = images.shape[1] // PATCH, images.shape[2] // PATCH
    cut = lambda r, c: pixels[:, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH].reshape(
        len(images), -1
    )
    return np.stack([cut(r, c) for r in range(rows) for c in range(columns)], axis=1)


def test_patches_are_row_by_row_and_channel_fastest():
    np.testing.assert_allclose(extract_patches(IMAGES, PATCH), by_hand(IMAGES), atol=1e-5)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_is_the_mean_over_masked_patches_of_the_batch(norm_pix):
    target = by_hand(IMAGES)
    if norm_pix:
        variance = target.var(-1, keepdims=True, ddof=1)  # unbiased
        target = (target - target.mean(-1, keepdims=True)) / np.sqrt(variance + 1e-6)
    prediction = np.random.default_rng(1).standard_normal(target.shape)
    total, weight = reconstruction_loss(prediction, IMAGES, MASKED, patch=PATCH, norm_pix=norm_pix)
    errors = ((prediction - target) ** 2).mean(-1)
    assert weight == 5
    np.testing.assert_allclose(total / weight, errors[MASKED].mean(), rtol=1e-5)


def test_the_variance_is_unbiased():
    """A patch with as many 0 as 1, n = 48, has the variance n / (n - 1) / 4."""
    _, deviation = compute_patch_statistics(jnp.tile(jnp.array([0.0, 1.0]), 24)[None, None])
    np.testing.assert_allclose(deviation[0, 0, 0] ** 2, 48 / 47 / 4 + 1e-6, rtol=1e-6)


def test_visible_patches_have_no_gradient():
    prediction = jnp.zeros((2, 6, 48))
    gradient = jax.grad(lambda p: reconstruction_loss(p, IMAGES, MASKED, patch=PATCH)[0])(
        prediction
    )
    assert (jnp.abs(gradient).max(-1) > 0).tolist() == MASKED.tolist()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_perfect_prediction_is_the_image(norm_pix):
    target = make_patch_targets(IMAGES, PATCH, norm_pix=norm_pix)
    np.testing.assert_array_equal(
        render_prediction(target, IMAGES, patch=PATCH, norm_pix=norm_pix), IMAGES
    )
    assert reconstruction_loss(target, IMAGES, MASKED, patch=PATCH, norm_pix=norm_pix)[0] < 1e-8


def test_predictions_out_of_range_are_clipped():
    found = render_prediction(jnp.full((2, 6, 48), 9.0), IMAGES, patch=PATCH, norm_pix=False)
    assert found.dtype == jnp.uint8 and (found == 255).all()


def test_a_patch_size_that_does_not_divide_the_image_is_an_error():
    with pytest.raises(ValueError, match="8x12 does not divide into blocks of 5"):
        extract_patches(IMAGES, 5)
