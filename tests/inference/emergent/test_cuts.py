"""TokenCut, MaskCut and LOST on planted features, with closed forms where there are some."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy import ndimage

from segjax.inference.emergent.cuts import grow_component, lost, mask_cut, token_cut
from segjax.inference.emergent.spectral import second_eigenvector


def plant(grid, regions):
    """One-hot features of regions (rows, columns) on a background. Returns features and masks."""
    labels = np.zeros(grid, int)
    for number, (rows, columns) in enumerate(regions, start=1):
        labels[rows, columns] = number
    features = np.eye(len(regions) + 1, dtype=np.float32)[labels.reshape(-1)]
    return features, [labels == number for number in range(1, len(regions) + 1)]


ONE = plant((8, 10), [(slice(2, 5), slice(3, 7))])
TWO = plant((8, 10), [(slice(2, 5), slice(1, 4)), (slice(5, 7), slice(7, 9))])


def test_two_regions_have_the_closed_form():
    features, (thing,) = ONE
    mask, values = token_cut(features, (8, 10))
    np.testing.assert_array_equal(mask, thing)
    inside, outside, weak = 12, 68, 1e-5
    d1, d2 = inside + weak * outside, outside + weak * inside
    ratio = -(outside * d2) / (inside * d1)
    np.testing.assert_allclose(values[2, 3] / values[0, 0], ratio, rtol=2e-3)
    weights = np.where(features @ features.T > 0.2, 1.0, weak)
    _, value = second_eigenvector(jnp.asarray(weights))
    np.testing.assert_allclose(value, 2 - inside / d1 - outside / d2, rtol=1e-2)


def test_three_regions():
    features, (first, second) = TWO
    np.testing.assert_array_equal(token_cut(features, (8, 10))[0], first)
    masks = mask_cut(features, (8, 10))
    np.testing.assert_array_equal(masks[:2], [first, second])
    assert not masks[2].any()
    mask, seed = lost(features - 0.1, (8, 10))
    assert divmod(int(seed), 10) == (5, 7)
    np.testing.assert_array_equal(mask, second)


@pytest.mark.parametrize("cut", [token_cut, mask_cut, lost])
@pytest.mark.parametrize("grid", [(1, 1), (4, 5)])
def test_features_without_a_cut_give_empty_masks(cut, grid):
    for fill in (0.0, 1.0):
        result = cut(jnp.full((grid[0] * grid[1], 3), fill), grid)
        masks = result if cut is mask_cut else result[0]
        assert not masks.any() and np.isfinite(np.asarray(masks, float)).all()


def cut_reference(features, grid, tau):
    """TokenCut by SciPy's generalized eigensolver in float64."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.where(unit @ unit.T > tau, 1.0, 1e-5)
    degree = np.diag(weights.sum(1))
    x = scipy.linalg.eigh(degree - weights, degree, subset_by_index=[1, 1])[1][:, 0]
    inside, seed = x > x.mean(), abs(x).argmax()
    inside = inside if inside[seed] else ~inside
    parts, _ = ndimage.label(inside.reshape(grid))
    return parts == parts[np.unravel_index(seed, grid)]


@pytest.mark.parametrize("seed", range(4))
def test_token_cut_equals_the_generalized_eigensolver(seed):
    rng = np.random.default_rng(seed)
    features, _ = plant((14, 14), [(slice(2, 8), slice(3, 9)), (slice(9, 13), slice(8, 12))])
    features = features @ rng.normal(size=(3, 32)) + 0.6 * rng.normal(size=(196, 32))
    ours, _ = token_cut(features.astype(np.float32), (14, 14))
    np.testing.assert_array_equal(ours, cut_reference(features, (14, 14), 0.2))


@pytest.mark.parametrize("seed", range(3))
def test_lanczos_equals_the_dense_solver(seed):
    rng = np.random.default_rng(seed)
    features, _ = plant((20, 20), [(slice(2, 9), slice(3, 9)), (slice(9, 18), slice(10, 16))])
    features = features @ rng.normal(size=(3, 64)) + rng.normal(size=(400, 64))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    weights = jnp.where(unit @ unit.T > 0.2, 1.0, 1e-5)
    active = jnp.asarray(rng.random(400) > 0.1)
    (dense, value), (other, value_2) = (
        second_eigenvector(weights, active, dense=choice) for choice in (True, False)
    )
    np.testing.assert_allclose(value, value_2, atol=1e-4)
    sign = jnp.sign(dense @ other)
    np.testing.assert_allclose(dense, sign * other, atol=2e-3 * float(abs(dense).max()))
    assert not dense[~active].any() and not other[~active].any()


def test_lanczos_survives_an_exhausted_space():
    features, (thing,) = ONE
    weights = jnp.where(features @ features.T > 0.2, 1.0, 1e-5)
    values, _ = second_eigenvector(weights, dense=False)
    inside = values.reshape(8, 10) > values.mean()
    assert (inside == thing).all() or (inside == ~thing).all()


def test_grow_component_equals_scipy():
    rng = np.random.default_rng(0)
    for _ in range(5):
        mask = rng.random((12, 15)) < 0.6
        parts, _ = ndimage.label(mask)
        seed = int(rng.choice(np.flatnonzero(mask)))
        want = parts == parts.reshape(-1)[seed]
        np.testing.assert_array_equal(jax.jit(grow_component)(mask, seed), want)
        assert not grow_component(mask, int(np.flatnonzero(~mask)[0])).any()
