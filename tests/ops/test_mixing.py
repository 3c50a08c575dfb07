"""Mixup and CutMix: mixed labels match the visible area of each image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.mixing import draw_cut_box, mix_images, smooth_labels

# Constant images of 0, 10, 20 and 30. A mixed pixel shows how much of each image is in it.
IMAGES = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.full((8, 10, 3), 10, np.uint8)
LABELS = np.eye(4, dtype=np.float32)
VALID = np.ones(4, np.float32)


compiled = jax.jit(mix_images, static_argnames=("mixup", "cutmix"))


def mixed(seed=0, valid=VALID, **options):
    return jax.device_get(compiled(IMAGES, LABELS, valid, jax.random.key(seed), **options))


def test_smoothed_labels_sum_to_one():
    labels = smooth_labels(jnp.array([2, 0]), 4, 0.1)
    np.testing.assert_allclose(
        labels, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]], rtol=1e-6
    )
    np.testing.assert_array_equal(smooth_labels(jnp.array([1]), 3), [[0, 1, 0]])


def test_mixup_blends_pixels_and_labels_with_the_same_lambda():
    images, labels = mixed(cutmix=0.0)
    share = labels[0, 0]  # lambda
    assert 0 < share < 1
    np.testing.assert_allclose(images[0], (1 - share) * 30, rtol=1e-5)
    np.testing.assert_allclose(images[1], share * 10 + (1 - share) * 20, rtol=1e-5)
    want = share * LABELS + (1 - share) * LABELS[::-1]
    np.testing.assert_allclose(labels, want, atol=1e-6)


def test_cutmix_replaces_a_box_and_labels_follow_its_area():
    shares = []
    for seed in range(8):
        images, labels = mixed(seed, mixup=0.0)
        other = images[0] == 30  # of the last image, over the first
        assert np.isin(images[0], (0, 30)).all()
        rows, columns = other.any((1, 2)), other.any((0, 2))
        assert (other == (rows[:, None] & columns)[..., None]).all()  # a box
        np.testing.assert_allclose(labels[0], [1 - other.mean(), 0, 0, other.mean()], atol=1e-6)
        shares.append(other.mean())
    assert len(set(shares)) > 4


def test_cutmix_is_chosen_with_the_given_probability():
    boxes = [set(np.unique(mixed(seed)[0][0])) <= {0.0, 30.0} for seed in range(40)]
    assert 10 < sum(boxes) < 30  # of 40 at 0.5
    assert set(np.unique(mixed(switch=1.0)[0][0])) <= {0.0, 30.0}


def test_an_image_with_an_invalid_partner_is_not_mixed():
    images, labels = mixed(valid=np.array([1, 1, 1, 0], np.float32))
    np.testing.assert_array_equal(images[0], IMAGES[0])
    np.testing.assert_array_equal(labels[0], LABELS[0])
    assert not np.array_equal(labels[1], LABELS[1])


def test_zero_parameters_disable_mixing():
    images, labels = mixed(mixup=0.0, cutmix=0.0)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("share, most", [(0.0, 0), (0.25, 4 * 5), (1.0, 8 * 10)])
def test_a_box_has_the_given_area_before_it_is_cut_off(share, most):
    boxes = jax.vmap(draw_cut_box, in_axes=(0, None, None))(
        jax.random.split(jax.random.key(0), 12), share, (8, 10)
    )
    areas = boxes.sum((1, 2)).tolist()
    assert max(areas) <= most and (not most or min(areas) > 0)
    if 0 < most < 80:
        assert (
            max(areas) == 4 * 4
        )  # half a side, rounded down to whole steps around the center: 2 * (4 // 2), 2 * (5 // 2)
