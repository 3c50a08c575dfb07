"""Statistics of single simulated prompts, with fixed seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from segjax.prompting import sampling
from segjax.prompting.sampling import sample_correction, sample_point

DRAWS, STRIDE = 6000, 2
jitter_box = jax.jit(sampling.jitter_box, static_argnums=3)


def many(array):
    return np.broadcast_to(array, (DRAWS, *np.shape(array)))


def pixel_counts(points, shape):
    counts = np.zeros((shape[0] * STRIDE, shape[1] * STRIDE), int)
    x, y = np.asarray(points, int).T
    np.add.at(counts, (y, x), 1)
    return counts


def pixels(region):
    return np.kron(region, np.ones((STRIDE, STRIDE), bool)).astype(bool)


def is_uniform(counts):
    return scipy.stats.chisquare(counts).pvalue > 0.001


REGION = np.zeros((4, 5), bool)
REGION[1, 1:4] = REGION[3, 4] = True


def test_points_are_uniform_over_the_pixels_of_the_region():
    points, found = jax.jit(sample_point, static_argnums=2)(jax.random.key(0), many(REGION), STRIDE)
    assert found.all()
    np.testing.assert_array_equal(points, np.floor(points))
    counts = pixel_counts(points, REGION.shape)
    assert (counts[~pixels(REGION)] == 0).all() and is_uniform(counts[pixels(REGION)])


TRUTH = np.zeros((4, 5), bool)
TRUTH[1, 1:4] = True
SAID = np.zeros((4, 5), bool)
SAID[1, 3] = SAID[2, 0:2] = SAID[:, 4] = (
    True  # right on one cell, misses two, two too many, and a column of padding
)
CONTENT = np.ones((4, 5), bool)
CONTENT[:, 4] = False
click = jax.jit(sample_correction, static_argnums=(4, 5, 6))


def test_corrections_are_uniform_over_the_error_region_and_never_on_padding():
    points, labels = click(jax.random.key(1), many(SAID), many(TRUTH), many(CONTENT), STRIDE, 0.0)
    missed, too_much = TRUTH & ~SAID, SAID & ~TRUTH & CONTENT
    counts = pixel_counts(points, TRUTH.shape)
    error = pixels(missed | too_much)
    assert (counts[~error] == 0).all() and is_uniform(counts[error])
    x, y = np.asarray(points, int).T
    np.testing.assert_array_equal(np.asarray(labels) == 1, pixels(missed)[y, x])
    np.testing.assert_array_equal(np.asarray(labels) == 0, pixels(too_much)[y, x])
    assert labels.dtype == jnp.int32


def test_truth_rate_samples_clicks_from_the_object():
    """Only clicks sampled from the ground truth reach the right cell of the object."""
    points, labels = click(jax.random.key(2), many(SAID), many(TRUTH), many(CONTENT), STRIDE, 0.1)
    counts = pixel_counts(points, TRUTH.shape)
    right = counts[pixels(TRUTH & SAID)].sum() / DRAWS
    assert abs(right - 0.1 / 3) < 4 * (0.033 * 0.967 / DRAWS) ** 0.5
    x, y = np.asarray(points, int).T
    np.testing.assert_array_equal(np.asarray(labels) == 1, pixels(TRUTH)[y, x])


def test_a_perfect_prediction_gets_a_click_on_the_object():
    points, labels = click(jax.random.key(3), many(TRUTH), many(TRUTH), many(CONTENT), STRIDE, 0.0)
    assert (labels == 1).all()
    counts = pixel_counts(points, TRUTH.shape)
    assert (counts[~pixels(TRUTH)] == 0).all() and is_uniform(counts[pixels(TRUTH)])


def test_a_perfect_prediction_may_get_a_click_on_the_background():
    """The click lies inside the image. Imperfect predictions are corrected as usual."""
    points, labels = click(
        jax.random.key(3), many(TRUTH), many(TRUTH), many(CONTENT), STRIDE, 0.0, "background"
    )
    assert (labels == 0).all()
    counts, beside = pixel_counts(points, TRUTH.shape), pixels(CONTENT & ~TRUTH)
    assert (counts[~beside] == 0).all() and is_uniform(counts[beside])
    points, _ = click(
        jax.random.key(3), many(SAID), many(TRUTH), many(CONTENT), STRIDE, 0.0, "background"
    )
    assert (pixel_counts(points, TRUTH.shape)[~pixels((TRUTH ^ SAID) & CONTENT)] == 0).all()
    with pytest.raises(ValueError, match="when_perfect 'nowhere'.*object, background"):
        sample_correction(jax.random.key(0), SAID, TRUTH, CONTENT, STRIDE, when_perfect="nowhere")


def test_without_an_object_the_click_is_padding():
    nothing = np.zeros((4, 5), bool)
    _, label = click(jax.random.key(0), nothing, nothing, CONTENT, STRIDE, 0.0)
    assert label == -1
    _, label = click(jax.random.key(0), ~CONTENT, nothing, CONTENT, STRIDE, 0.0)
    assert label == -1  # an error on padding alone is none


SIZE = np.array([700, 1000])


def moved(box, noise, cap=20.0):
    boxes = jitter_box(jax.random.key(4), many(np.array(box, np.float32)), many(SIZE), noise, cap)
    return np.asarray(boxes) - np.array(box)


def test_normal_box_noise_is_a_tenth_of_the_side():
    shift = moved([300, 200, 360, 240], "normal")  # 60 wide, 40 high
    assert np.abs(shift.mean(0)).max() < 4 * 6 / DRAWS**0.5
    np.testing.assert_allclose(shift.std(0), [6, 4, 6, 4], rtol=4 / (2 * DRAWS) ** 0.5)
    for column, std in zip(shift.T, [6, 4, 6, 4], strict=True):
        assert scipy.stats.kstest(column / std, "norm").pvalue > 1e-3
    assert (
        np.abs(np.corrcoef(shift.T) - np.eye(4)).max() < 4 / DRAWS**0.5
    )  # four independent coordinates


def test_normal_box_noise_is_capped():
    shift = moved([300, 100, 700, 500], "normal")  # a tenth is 40
    assert np.abs(shift).max() == 20
    at_cap = (np.abs(shift) == 20).mean()
    assert abs(at_cap - 2 * scipy.stats.norm.sf(0.5)) < 0.02
    assert np.abs(moved([300, 100, 700, 500], "normal", cap=3.0)).max() == 3


@pytest.mark.parametrize(
    "box, bounds", [([300, 200, 360, 240], [6, 4, 6, 4]), ([300, 100, 700, 500], [20] * 4)]
)
def test_uniform_box_noise(box, bounds):
    shift = moved(box, "uniform")
    for column, bound in zip(shift.T, bounds, strict=True):
        assert np.abs(column).max() <= bound + 1e-3
        assert scipy.stats.kstest(column, "uniform", args=(-bound, 2 * bound)).pvalue > 1e-3


@pytest.mark.parametrize("box", [[300, 200, 304, 204], [300, 100, 700, 500]])
def test_outward_box_noise_enlarges_boxes_of_all_sizes(box):
    enlarged = moved(box, "outward") * [-1, -1, 1, 1]
    for column in enlarged.T:
        assert scipy.stats.kstest(column, "uniform", args=(0, 20)).pvalue > 1e-3
    assert np.abs(np.corrcoef(enlarged.T) - np.eye(4)).max() < 4 / DRAWS**0.5


def test_boxes_stay_inside_the_image():
    box = np.array([2.0, 1, 998, 699], np.float32)
    boxes = np.asarray(jitter_box(jax.random.key(5), many(box), many(SIZE), "normal"))
    assert boxes.min() == 0 and boxes[:, [0, 2]].max() == 1000 and boxes[:, [1, 3]].max() == 700
    assert (boxes[:, :2] < boxes[:, 2:]).all()


def test_no_noise_and_unknown_noise():
    assert (moved([1, 2, 30, 40], "none") == 0).all()
    with pytest.raises(ValueError, match="'gaussian'.*normal, uniform, outward, none"):
        jitter_box(jax.random.key(0), np.zeros(4), np.ones(2), "gaussian")
