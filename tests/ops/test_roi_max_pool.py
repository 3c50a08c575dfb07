"""RoIPool and rounded regions: closed-form cases and the rule in loops."""

import jax
import jax.numpy as jnp
import numpy as np

from ops.plain_roi_align import roi_pool as plain
from segjax.ops.roi.align import roi_align
from segjax.ops.roi.max_pool import pyramid_roi_pool, roi_pool, round_to_cells

RAMP = np.arange(25, dtype=np.float32).reshape(5, 5, 1)
pool = jax.jit(roi_pool, static_argnums=(2,), static_argnames=("scale",))


def random_boxes(rng, count):
    corner = rng.uniform(-25, 45, (count, 2))
    return np.concatenate([corner, corner + rng.exponential(25, (count, 2)) - 2], 1).astype(
        np.float32
    )


def test_a_region_includes_the_cells_of_both_corners():
    """Bins of 1.5 cells are rounded outwards to two, so they share the cell in the middle."""
    found = np.asarray(
        pool(RAMP, np.array([[1, 1, 3, 3], [1.4, 0.6, 2.6, 3.4]], np.float32), 2, scale=1)
    )[..., 0]
    np.testing.assert_array_equal(found, [[[12, 13], [17, 18]]] * 2)


def test_halves_are_rounded_away_from_zero():
    found = np.asarray(
        pool(RAMP, np.array([[0.5, 1.5, 0.5, 1.5], [-0.5, -0.5, 0, 0]], np.float32), 1, scale=1)
    )
    np.testing.assert_array_equal(found.ravel(), [2 * 5 + 1, 0])


def test_a_bin_outside_of_the_map_is_zero():
    np.testing.assert_array_equal(
        pool(RAMP - 100, np.array([[4, 4, 5, 5]], np.float32), 2, scale=1)[0, :, :, 0],
        [[-76, 0], [0, 0]],
    )


def test_equals_the_rule_in_loops_with_gradients_of_the_maximum():
    rng = np.random.default_rng(0)
    features, boxes = rng.integers(0, 40, (17, 23, 2)).astype(np.float32), random_boxes(rng, 40)
    boxes[:2] = [[900, 5, 1000, 20], [-3000, -3000, 3000, 3000]]
    weights = rng.normal(size=(40, 3, 2, 2)).astype(np.float32)
    value = lambda features: jnp.vdot(pool(features, boxes, (3, 2), scale=0.5), weights)
    total, gradient = jax.jit(jax.value_and_grad(value))(features)
    found, expected = pool(features, boxes, (3, 2), scale=0.5), plain(features, boxes, (3, 2), 0.5)
    np.testing.assert_array_equal(found, expected)
    assert 0.2 < (expected != 0).mean() < 0.8
    np.testing.assert_allclose(
        np.vdot(gradient, features), total, rtol=1e-4
    )  # values at the maxima, weighted
    ones = jax.jit(jax.grad(lambda features: pool(features, boxes[1:2], 1, scale=0.5).sum()))(
        features
    )
    for channel in range(2):  # of equal values the first
        assert np.flatnonzero(ones[:, :, channel]) == np.argmax(features[:, :, channel])


def test_levels_images_and_boxes_that_are_not_finite():
    """Two images of two levels at once."""
    rng = np.random.default_rng(1)
    levels = [
        rng.normal(size=(2, 8, 12, 3)).astype(np.float32),
        rng.normal(size=(2, 4, 6, 3)).astype(np.float32),
    ]
    boxes, level = random_boxes(rng, 20).reshape(2, 10, 4), rng.integers(0, 2, (2, 10))
    boxes[0, 0, 1] = np.nan
    found = jax.jit(jax.vmap(lambda *image: pyramid_roi_pool(*image, 2, (0.25, 0.125))))(
        levels, boxes, level
    )
    assert not found[0, 0].any()
    boxes[0, 0] = 1e6
    for image in range(2):
        for number, scale in enumerate((0.25, 0.125)):
            expected = plain(
                levels[number][image], boxes[image][level[image] == number], (2, 2), scale
            )
            np.testing.assert_array_equal(found[image][level[image] == number], expected)


def test_no_boxes():
    assert pool(RAMP, np.zeros((0, 4), np.float32), 7, scale=1).shape == (0, 7, 7, 1)


def test_edges_are_rounded_to_cells():
    boxes = np.array([[3, 5, 17, 10], [9, 9, 10, 10], [-5, -3, 1, 1]], np.float32)
    rounded = [[0, 8, 16, 16], [8, 8, 16, 16], [-8, 0, 0, 8]]
    np.testing.assert_array_equal(round_to_cells(boxes, 1 / 8), rounded)
    np.testing.assert_array_equal(round_to_cells(boxes, np.full(3, 1 / 8, np.float32)), rounded)


def test_a_rounded_region_has_whole_cells_in_its_bins():
    """RoIWarp is RoIAlign in a region that starts and ends at a cell."""
    boxes = round_to_cells(np.array([[0.8, 1.3, 3.2, 2.9]], np.float32), 1.0)
    found = roi_align(RAMP, boxes, 2, scale=1, samples=1)
    np.testing.assert_allclose(found[0, :, :, 0], RAMP[1:3, 1:3, 0])
