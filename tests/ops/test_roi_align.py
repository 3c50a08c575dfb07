"""RoIAlign: closed forms, the rule in loops, and the two implementations against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ops.plain_roi_align import roi_align as plain
from segjax.ops.resize import resize_bilinear
from segjax.ops.roi.align import IMPLEMENTATIONS, pyramid_roi_align, roi_align
from segjax.ops.roi.max_pool import roi_pool
from segjax.ops.roi.samples import Grid, place_regions

RAMP = np.arange(25, dtype=np.float32).reshape(5, 5, 1)
ONES = np.ones((5, 5, 1), np.float32)
both = pytest.mark.parametrize("impl", IMPLEMENTATIONS)


@functools.partial(
    jax.jit, static_argnums=(2, 3), static_argnames=("samples", "aligned", "impl", "max_samples")
)
def align(features, boxes, size, scale=1.0, **options):
    return roi_align(features, boxes, size, scale=scale, **options)


def pooled(features, box, size, **options):
    return np.asarray(align(features, np.array([box], np.float32), size, **options))[0, :, :, 0]


@both
@pytest.mark.parametrize("aligned, first", [(False, 7.5), (True, 4.5)])
def test_an_example_of_detectron2(impl, aligned, first):
    """Half a pixel up and left is 3 less on this map (tests/layers/test_roi_align.py)."""
    rows = first + np.arange(4)[:, None] * 2.5 + np.arange(4) * 0.5
    np.testing.assert_allclose(pooled(RAMP, [1, 1, 3, 3], 4, aligned=aligned, impl=impl), rows)


CASES = [
    ("the map itself", RAMP, [0, 0, 5, 5], 5, 1, RAMP[:, :, 0]),
    ("its mean", RAMP, [0, 0, 5, 5], 1, 2, [[12]]),
    (
        "up to a cell beyond the border takes the border's value",
        RAMP,
        [4, 4, 6, 6],
        2,
        1,
        [[24, 24], [24, 24]],
    ),
    ("exactly a cell beyond is still inside", RAMP, [5, 5, 7, 7], 2, 1, [[24, 0], [0, 0]]),
    ("and so it is above and to the left", RAMP + 1, [-1, -1, 1, 1], 2, 1, [[1, 1], [1, 1]]),
    (
        "farther out is 0",
        ONES,
        [-2, -2, 2, 2],
        4,
        1,
        (np.arange(4) > 0)[:, None] * (np.arange(4) > 0),
    ),
    ("no fading at the border", ONES, [0, 0, 5, 5], 5, 2, np.ones((5, 5))),
]


@both
@pytest.mark.parametrize(
    "features, box, size, samples, expected", [case[1:] for case in CASES], ids=lambda _: ""
)
def test_at_the_border(impl, features, box, size, samples, expected):
    np.testing.assert_allclose(
        pooled(features, box, size, samples=samples, impl=impl), expected, atol=1e-6
    )


@both
def test_a_degenerate_box_is_zero_and_has_no_gradient(impl):
    box = np.array([[3, 4, 5, 4]], np.float32)
    assert not pooled(RAMP, box[0], 7, impl=impl).any()
    assert not jax.jit(jax.grad(lambda f: align(f, box, 7, impl=impl).sum()))(RAMP).any()


@both
def test_half_the_resolution_is_the_mean_of_four(impl):
    features = np.random.default_rng(0).normal(size=(30, 30, 1)).astype(np.float32)
    expected = resize_bilinear(features[:, :, 0], (15, 15))
    np.testing.assert_allclose(pooled(features, [0, 0, 30, 30], 15, impl=impl), expected, atol=1e-5)


@both
@pytest.mark.parametrize("samples", [0, 1, 3])
def test_a_bin_of_an_affine_map_is_the_value_at_its_center(impl, samples):
    """For any number of samples: bilinear interpolation is exact, and samples are symmetric."""
    y, x = np.mgrid[:20, :30].astype(np.float32)
    features = (0.7 * y - 0.3 * x + 2)[:, :, None]
    boxes = np.array([[2, 3, 25, 18], [5.3, 4.1, 9.9, 16.7], [10, 10, 10.5, 11]], np.float32)
    found = np.asarray(align(features, boxes, (3, 4), samples=samples, impl=impl))[..., 0]
    for box, values in zip(boxes, found, strict=True):
        rows = box[1] + (np.arange(3) + 0.5) / 3 * (box[3] - box[1]) - 0.5
        columns = box[0] + (np.arange(4) + 0.5) / 4 * (box[2] - box[0]) - 0.5
        np.testing.assert_allclose(values, 0.7 * rows[:, None] - 0.3 * columns + 2, atol=1e-4)


def random_case(seed, count=40, shape=(17, 23), channels=2):
    """Draws boxes inside, across the border, outside, far outside, thin and inverted."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-25, 45, (count, 2))
    boxes = np.concatenate([corner, corner + rng.exponential(25, (count, 2)) - 2], 1).astype(
        np.float32
    )
    boxes[:3] = [[900, 5, 1000, 20], [-3000, -3000, 3000, 3000], [5, -700, 20, -650]]
    return rng.normal(size=(*shape, channels)).astype(np.float32), boxes


# With one sample per cell the largest box has millions, which take a minute in Python.
ADAPTIVE = [pytest.param(0, aligned, marks=pytest.mark.slow) for aligned in (True, False)]


@pytest.mark.parametrize("samples, aligned", [*ADAPTIVE, (2, False)])
def test_equals_the_rule_in_loops_with_gradients(samples, aligned):
    features, boxes = random_case(samples)
    weights = (
        np.random.default_rng(4)
        .normal(size=(len(boxes), 3, 2, features.shape[2]))
        .astype(np.float32)
    )
    expected = plain(features, boxes, (3, 2), 0.5, samples, aligned)
    assert 0.2 < (expected != 0).mean() < 0.8

    @jax.jit
    def both(features, boxes):
        def value(impl, features, boxes):
            found = align(features, boxes, (3, 2), 0.5, samples=samples, aligned=aligned, impl=impl)
            return jnp.vdot(found, weights), found

        return [
            jax.grad(value, (1, 2), has_aux=True)(impl, features, boxes) for impl in IMPLEMENTATIONS
        ]

    (by_gather, gathered), (by_product, multiplied) = both(features, boxes)
    np.testing.assert_allclose(gathered, expected, atol=2e-5)
    np.testing.assert_allclose(multiplied, expected, atol=2e-5)
    np.testing.assert_allclose(gathered, multiplied, atol=1e-5)
    np.testing.assert_allclose(by_gather[0], by_product[0], atol=1e-5)
    assert not by_gather[1].any() and not by_product[1].any()  # boxes are constants
    # Pooling is linear and its gradient is the transpose: <pool(f), w> = <f, gradient(w)> for
    # every f, here for another one.
    other = np.random.default_rng(5).normal(size=features.shape)
    value = np.vdot(plain(other, boxes, (3, 2), 0.5, samples, aligned), weights)
    np.testing.assert_allclose(np.vdot(other, by_product[0]), value, rtol=1e-4)


LEVELS = [
    np.random.default_rng(5).normal(size=(h, w, 3)).astype(np.float32)
    for h, w in ((16, 24), (8, 12), (4, 6))
]
SCALES = (0.25, 0.125, 0.0625)


@functools.partial(jax.jit, static_argnums=(3,), static_argnames=("samples", "impl"))
def pyramid(levels, boxes, level, size, **options):
    return pyramid_roi_align(levels, boxes, level, size, SCALES, **options)


def pyramid_case(seed, count=70):
    """Draws more regions than one chunk holds. With seed 0, one level has none."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-10, 90, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 60, (count, 2))], 1).astype(np.float32)
    return boxes, rng.integers(0, 3, count) if seed else rng.choice([0, 2], count)


@both
@pytest.mark.parametrize("seed", [0, 1])
def test_each_region_is_pooled_from_its_level(impl, seed):
    boxes, level = pyramid_case(seed)
    found = pyramid(LEVELS, boxes, level, 2, samples=2, impl=impl)
    for number, (features, scale) in enumerate(zip(LEVELS, SCALES, strict=True)):
        expected = plain(features, boxes[level == number], (2, 2), scale, 2, True)
        np.testing.assert_allclose(found[level == number], expected, atol=1e-5)


@both
def test_gradients_reach_only_the_level_of_a_region(impl):
    boxes, level = pyramid_case(0)
    gradients = jax.jit(
        jax.grad(lambda levels: (pyramid(levels, boxes, level, 2, samples=2, impl=impl) ** 2).sum())
    )(LEVELS)
    alone = jax.jit(
        jax.grad(lambda f: (align(f, boxes[level == 2], 2, SCALES[2], samples=2) ** 2).sum())
    )(LEVELS[2])
    assert not gradients[1].any() and gradients[0].any()
    np.testing.assert_allclose(gradients[2], alone, atol=1e-5)


@both
def test_vmapped_images(impl):
    boxes, level = map(np.stack, zip(pyramid_case(0), pyramid_case(1), strict=True))
    levels = [np.stack([features, features[::-1]]) for features in LEVELS]

    @jax.jit
    def several(levels):
        value = lambda *image: pyramid(*image, 2, samples=2, impl=impl)
        squares = lambda levels: (jax.vmap(value)(levels, boxes, level) ** 2).sum()
        return jax.vmap(value)(levels, boxes, level), jax.grad(squares)(levels)

    found, gradients = several(levels)
    for image in range(2):
        expected = pyramid(
            [features[image] for features in levels],
            boxes[image],
            level[image],
            2,
            samples=2,
            impl=impl,
        )
        np.testing.assert_allclose(found[image], expected, atol=1e-6)
    for features, gradient in zip(
        levels, gradients, strict=True
    ):  # of a quadratic form f' A f, 2 A f
        assert gradient.shape == features.shape
    total = sum(np.vdot(*pair) for pair in zip(levels, gradients, strict=True))
    np.testing.assert_allclose(total, 2 * (np.asarray(found) ** 2).sum(), rtol=1e-4)


@both
def test_bfloat16_features_and_float32_coordinates(impl):
    """At column 1000 a bfloat16 has steps of 4 cells, and the ramp would have them, too."""
    ramp = jnp.asarray(
        np.broadcast_to((np.arange(1024) % 8)[None, :, None], (4, 1024, 1)), jnp.bfloat16
    )
    box = np.array([[1001, 0, 1004, 4]], np.float32)

    @jax.jit
    def both(ramp):
        value = lambda features: align(features, box, (1, 3), samples=1, impl=impl)
        return value(ramp), jax.grad(lambda features: value(features).astype(jnp.float32).sum())(
            ramp
        )

    found, gradient = both(ramp)
    assert found.dtype == gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32)[0, 0, :, 0], [1, 2, 3])
    np.testing.assert_allclose(np.asarray(gradient, np.float32)[:, 1001:1004, 0].sum(), 3)


@both
def test_boxes_that_are_not_finite(impl):
    """They cause no endless loop and no lookup outside of the map, and do not affect the others."""
    boxes = np.array(
        [[1, 1, 3, 3], [np.nan, 0, 3, 3], [0, 0, np.inf, 3], [-3e38, -3e38, 3e38, 3e38]], np.float32
    )
    found = np.asarray(align(RAMP, boxes, 4, impl=impl))
    assert np.isfinite(found).all() and not found[1:3].any()
    np.testing.assert_allclose(found[0, 0, :, 0], [4.5, 5, 5.5, 6])


@both
def test_no_boxes(impl):
    assert align(RAMP, np.zeros((0, 4), np.float32), 7, impl=impl).shape == (0, 7, 7, 1)
    assert not jax.grad(lambda f: align(f, np.zeros((0, 4), np.float32), 7, impl=impl).sum())(
        RAMP
    ).any()


def test_a_bound_reduces_the_samples():
    """With a bound of 1, a bin of 3 x 3 cells has one sample in the middle."""
    features = np.random.default_rng(6).normal(size=(9, 9, 1)).astype(np.float32)
    found = pooled(features, [0, 0, 9, 9], 3, max_samples=1)
    np.testing.assert_allclose(found, features[1::3, 1::3, 0], atol=1e-5)


def test_wrong_calls_raise_errors():
    with pytest.raises(ValueError, match="impl 'einsum'; choose one of gather, matmul"):
        roi_align(RAMP, np.zeros((1, 4)), 7, scale=1, impl="einsum")
    for boxes in (np.zeros((2, 3)), np.zeros(4), np.zeros((1, 2, 4))):
        with pytest.raises(ValueError, match=r"boxes have shape .*; expected \[R, 4\]"):
            roi_align(RAMP, boxes, 7, scale=1)
        with pytest.raises(ValueError, match=r"boxes have shape .*; expected \[R, 4\]"):
            roi_pool(RAMP, boxes, 7, scale=1)
    with pytest.raises(ValueError, match="3 levels and 2 scales"):
        pyramid_roi_align(LEVELS, np.zeros((1, 4)), np.zeros(1, int), 7, SCALES[:2])


@both
def test_float64_features_have_sums_and_gradients_of_float64(impl):
    features = np.random.default_rng(5).normal(size=(6, 7, 2))
    boxes = np.array([[0.5, 1, 5, 4.5]], np.float32)

    def pool(features):
        return roi_align(features, boxes, 2, scale=1, samples=2, impl=impl)

    with jax.enable_x64(True):
        found, gradient = pool(features), jax.grad(lambda f: (pool(f) ** 2).sum())(features)
        assert found.dtype == gradient.dtype == np.float64
        step = 1e-6 * np.eye(features.size)[17].reshape(features.shape)
        slope = ((pool(features + step) ** 2).sum() - (pool(features - step) ** 2).sum()) / 2e-6
        np.testing.assert_allclose(gradient.ravel()[17], slope, rtol=1e-6, atol=1e-9)
    single = pool(features.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(found, single, atol=1e-5)


@pytest.mark.parametrize("bins", [7, 14])
def test_a_bin_of_whole_cells_has_one_sample_per_cell(bins):
    """The division is exact: 21 cells in 7 bins are 3 each, not 4."""
    sides = np.arange(1, 300, dtype=np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides + 0.25], 1)
    grid = Grid((bins, bins), 0, True, 100)
    y, x = jax.jit(lambda boxes: place_regions(boxes, jnp.float32(1), (50, 50), grid))(boxes)
    np.testing.assert_array_equal(x.count, -(-sides // bins))
    np.testing.assert_array_equal(y.count, sides // bins + 1)
