"""Masks of attention and colors of principal components."""

import jax.numpy as jnp
import numpy as np

from segjax.inference.emergent.pictures import color_components, find_components, keep_mass


def test_keep_mass():
    attention = jnp.array([[0.05, 0.31, 0.10, 0.19, 0.05, 0.30], [0, 0, 0, 0, 0, 0]])
    kept = np.asarray(keep_mass(attention))
    np.testing.assert_array_equal(kept[0], [False, True, False, False, False, True])
    assert not kept[1].any()
    # The scale does not matter
    np.testing.assert_array_equal(keep_mass(7 * attention), kept)


def test_components_equal_the_covariance_and_have_fixed_signs():
    features = np.random.default_rng(0).normal(size=(50, 6)) * [1, 5, 2, 0.1, 3, 1]
    found = np.asarray(find_components(jnp.asarray(features), 3))
    centered = features - features.mean(0)
    values, vectors = np.linalg.eigh(centered.T @ centered)
    for index in range(3):
        direction = vectors[:, -1 - index]
        direction = direction * np.sign(direction[abs(direction).argmax()])
        np.testing.assert_allclose(found[:, index], centered @ direction, atol=1e-4)
        np.testing.assert_allclose((found[:, index] ** 2).sum(), values[-1 - index], rtol=1e-4)


def test_constant_features_are_black():
    assert not color_components(jnp.ones((9, 4))).any()
    assert not color_components(jnp.ones((9, 4)), foreground=True).any()


def test_background_is_black():
    features = np.zeros((12, 5), np.float32)
    features[:4] = np.random.default_rng(1).normal(size=(4, 5)) + [9, 0, 0, 0, 0]
    colors = np.asarray(color_components(jnp.asarray(features), foreground=True))
    assert not colors[4:].any() and colors[:4].max() == 1 and colors.min() == 0
