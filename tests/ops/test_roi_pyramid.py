import jax
import numpy as np
import pytest

from segjax.ops.roi.pyramid import flatten_levels, fpn_level, look_up_levels

fpn_level = jax.jit(fpn_level, static_argnames=("lowest", "highest", "epsilon_inside"))


def squares(*sides):
    return np.array([[10, 20, 10 + side, 20 + side] for side in sides], np.float32)


@pytest.mark.parametrize("epsilon_inside", [True, False])
def test_level_by_side(epsilon_inside):
    sides = (16, 55.9, 56, 111.9, 112, 223.9, 224, 447.9, 448, 2000)
    level = fpn_level(squares(*sides), epsilon_inside=epsilon_inside)
    np.testing.assert_array_equal(2 + np.asarray(level), [2, 2, 2, 2, 3, 3, 4, 4, 5, 5])


def test_level_by_area_not_by_shape():
    np.testing.assert_array_equal(
        fpn_level(np.array([[0, 0, 56, 896], [0, 0, 1000, 50.1]], np.float32)), [2, 1]
    )


def test_just_below_a_level():
    """A millionth of a level short: torchvision's epsilon lifts the box, detectron2's does not."""
    side = np.float32(224) * (1 - np.float32(3e-7))
    for inside, level in ((True, 1), (False, 2)):
        assert int(fpn_level(squares(side), epsilon_inside=inside)[0]) == level


@pytest.mark.parametrize("epsilon_inside", [True, False])
def test_degenerate_boxes_belong_to_the_lowest_level(epsilon_inside):
    boxes = np.array([[0, 0, 0, 0], [5, 5, 5, 900], [9, 9, 2, 2]], np.float32)
    assert not fpn_level(boxes, epsilon_inside=epsilon_inside).any()


def test_other_levels():
    """Up to P6, as in tensorflow/tpu."""
    np.testing.assert_array_equal(fpn_level(squares(16, 448, 896, 5000), highest=6), [0, 3, 4, 4])


def test_cells_of_a_pyramid():
    levels = [np.full((h, w, 2), number) for number, (h, w) in enumerate([(4, 6), (2, 3), (1, 2)])]
    levels[1][1, 2] = 7
    scales, level = (0.5, 0.25, 0.125), np.array([1, 0, 2])
    start, row, height, width, scale = look_up_levels(levels, scales, level)
    cells = flatten_levels(levels)
    assert cells.shape == (24 + 6 + 2, 2)
    assert cells[start[0] + 1 * row[0] + 2, 0] == 7
    np.testing.assert_array_equal(row, width)
    np.testing.assert_array_equal(cells[start, 0], [1, 0, 2])
    np.testing.assert_array_equal(height, [2, 4, 1])
    np.testing.assert_array_equal(scale, [0.25, 0.5, 0.125])
    valid = look_up_levels(levels, scales, level, np.array([[3, 5], [2, 2], [1, 1]]))
    np.testing.assert_array_equal(valid.row, row)
    np.testing.assert_array_equal([valid.height, valid.width], [[2, 3, 1], [2, 5, 1]])
