"""The distance transform equals SciPy's, and clicks follow RITM's rule in closed cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.ops import distance_transform as ops

click = jax.jit(ops.choose_center_click)
distance_transform = jax.jit(ops.distance_transform)
squared_distance_transform = jax.jit(ops.squared_distance_transform)


def scipy_distance(mask):
    return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]


def blobs(shape, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, (0, sigma, sigma)) > 0


@pytest.mark.parametrize(
    "shape", [(6, 48, 48), (4, 33, 70), (4, 70, 33), (3, 1, 9), (3, 9, 1), (2, 1, 1)]
)
def test_distances_equal_scipys_exactly(shape):
    masks = blobs(shape, 3) | (np.random.default_rng(1).random(shape) > 0.9)
    masks[0] = True
    masks[-1] &= np.arange(shape[2]) > shape[2] // 2
    expected = np.stack([scipy_distance(mask) for mask in masks])
    squared = np.asarray(squared_distance_transform(masks))
    np.testing.assert_array_equal(squared, np.rint(expected**2).astype(np.int32))
    got = np.asarray(distance_transform(masks))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=3e-7)


def test_border_counts_as_outside():
    found = np.asarray(distance_transform(np.ones((5, 7), bool)))
    np.testing.assert_array_equal(found[2], [1, 2, 3, 3, 3, 2, 1])
    assert (found[[0, -1]] == 1).all()


def test_empty_mask_is_zero_and_leading_axes_are_kept():
    found = np.asarray(distance_transform(np.zeros((2, 3, 8, 9), bool)))
    assert found.shape == (2, 3, 8, 9) and not found.any()


def test_vmap_equals_batch():
    masks = blobs((4, 40, 40), 4, seed=3)
    by_image = jax.jit(jax.vmap(squared_distance_transform))(masks)
    np.testing.assert_array_equal(by_image, squared_distance_transform(masks))


def test_sharded_over_images_equals_one_device():
    masks = blobs((8, 32, 32), 3, seed=4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placed = jax.device_put(masks, jax.NamedSharding(mesh, jax.P("data")))
    np.testing.assert_array_equal(
        squared_distance_transform(placed), squared_distance_transform(masks)
    )


def square(x1, y1, x2, y2, size=24):
    mask = np.zeros((size, size), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_first_click_is_the_center_of_the_ground_truth():
    ground_truth = square(2, 4, 11, 13)
    xy, label = click(ground_truth, np.zeros_like(ground_truth))
    np.testing.assert_array_equal(xy, [6, 8])
    assert xy.dtype == jnp.float32 and int(label) == 1


def test_larger_error_wins():
    ground_truth, prediction = square(1, 1, 6, 6), square(10, 10, 19, 19)
    xy, label = click(ground_truth, prediction)
    np.testing.assert_array_equal(xy, [14, 14])
    assert int(label) == 0
    xy, label = click(prediction, ground_truth)
    np.testing.assert_array_equal(xy, [14, 14])
    assert int(label) == 1


def test_tie_goes_to_the_negative_click():
    xy, label = click(square(1, 1, 6, 6), square(10, 10, 15, 15))
    np.testing.assert_array_equal(xy, [12, 12])
    assert int(label) == 0


def test_first_maximum_in_row_major_order_wins_and_clicked_pixels_are_skipped():
    ground_truth = square(4, 4, 8, 8)  # four pixels at distance 2
    empty = np.zeros_like(ground_truth)
    xy, _ = click(ground_truth, empty)
    np.testing.assert_array_equal(xy, [5, 5])
    xy, _ = click(ground_truth, empty, clicked=square(5, 5, 6, 6))
    np.testing.assert_array_equal(xy, [6, 5])
    xy, _ = click(ground_truth, empty, clicked=square(5, 5, 7, 6))
    np.testing.assert_array_equal(xy, [5, 6])


def test_no_error_left_gives_a_padding_click():
    ground_truth = square(4, 4, 8, 8)
    one_pixel = square(4, 4, 5, 5)
    truths = np.stack([ground_truth, one_pixel, ground_truth])
    predictions = np.stack([ground_truth, np.zeros_like(ground_truth), np.zeros_like(ground_truth)])
    clicked = np.stack([np.zeros_like(ground_truth), one_pixel, np.zeros_like(ground_truth)])
    xy, label = click(truths, predictions, clicked)
    np.testing.assert_array_equal(label, [-1, -1, 1])
    np.testing.assert_array_equal(xy, [[0, 0], [0, 0], [5, 5]])
