import jax.numpy as jnp
import numpy as np

from segjax.ops.boxes import box_area, clip_boxes


def test_area():
    boxes = jnp.array([[1.0, 2, 4, 6], [0, 0, 1, 1], [2, 2, 2, 5], [5, 0, 1, 3], [5, 5, 1, 1]])
    np.testing.assert_array_equal(box_area(boxes), [12, 1, 0, 0, 0])  # inverted in one or both directions: none


def test_clip_to_height_and_width():
    boxes = jnp.array([[[-3.0, -4, 30, 20], [1, 2, 3, 4]], [[8.0, 8, 9, 9], [40, 50, 60, 70]]])
    sizes = jnp.array([[[10, 20]], [[30, 50]]])  # (height, width), one a row of boxes
    clipped = clip_boxes(boxes, jnp.broadcast_to(sizes, (2, 2, 2)))
    np.testing.assert_array_equal(clipped[0], [[0, 0, 20, 10], [1, 2, 3, 4]])
    np.testing.assert_array_equal(clipped[1], [[8, 8, 9, 9], [40, 30, 50, 30]])
    assert clipped.dtype == jnp.float32
