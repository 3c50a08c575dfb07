import numpy as np
import pytest

from segjax.ops.anchors import make_cell_anchors, make_grid_anchors

RATIOS = (0.5, 1, 2)


def test_an_example_of_detectron2():
    """Two sizes, three ratios, two cells (its tests/modeling/test_anchor_generator.py)."""
    cell = [[-32, -8, 32, 8], [-16, -16, 16, 16], [-8, -32, 8, 32]]
    cell += [[-64, -16, 64, 16], [-32, -32, 32, 32], [-16, -64, 16, 64]]
    made = make_cell_anchors((32, 64), (0.25, 1, 4))
    np.testing.assert_allclose(made, cell)
    right = np.array(cell) + [4, 0, 4, 0]
    np.testing.assert_allclose(
        make_grid_anchors(made, (1, 2), (4, 4)), np.concatenate([cell, right])
    )
    np.testing.assert_allclose(
        make_grid_anchors(made, (1, 2), (4, 4), 0.5), np.concatenate([cell, right]) + 2
    )


def test_an_example_of_torchvision():
    """Size 10, one ratio, an image of 15 x 15 under a grid of 3 x 3."""
    anchors = make_grid_anchors(
        make_cell_anchors(10, [1], rounded=True), (3, 3), (15 // 3, 15 // 3)
    )
    row = np.array([[-5, -5, 5, 5], [0, -5, 10, 5], [5, -5, 15, 5]])
    np.testing.assert_array_equal(
        anchors, np.concatenate([row, row + [0, 5, 0, 5], row + [0, 10, 0, 10]])
    )
    assert anchors.dtype == np.float32


@pytest.mark.parametrize(
    "size, wide, tall",
    [
        (32, (23, 11), (11, 23)),
        (64, (45, 23), (23, 45)),
        (128, (91, 45), (45, 91)),
        (256, (181, 91), (91, 181)),
    ]
    + [(512, (362, 181), (181, 362))],
)
def test_rounded_cells(size, wide, tall):
    half = np.array([wide, (size // 2, size // 2), tall])
    np.testing.assert_array_equal(
        make_cell_anchors(size, RATIOS, rounded=True), np.concatenate([-half, half], 1)
    )


def test_unrounded_cells():
    anchors = make_cell_anchors(32, RATIOS)
    np.testing.assert_allclose(anchors[0], [-22.6274, -11.3137, 22.6274, 11.3137], atol=5e-5)
    sides = anchors[:, 2:] - anchors[:, :2]
    np.testing.assert_allclose(sides.prod(1), 32**2, rtol=1e-6)
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], RATIOS, rtol=1e-6)


@pytest.mark.parametrize("image, total", [((800, 1344), 268_569), ((1024, 1024), 261_888)])
def test_number_of_anchors(image, total):
    """Images are padded to a multiple of 32. The coarsest level has every second cell of P5."""
    grids = [(image[0] // stride, image[1] // stride) for stride in (4, 8, 16, 32)]
    grids.append(tuple(-(-side // 2) for side in grids[-1]))
    cells = make_cell_anchors(32, RATIOS)
    assert sum(len(make_grid_anchors(cells, grid, (1, 1))) for grid in grids) == total


def test_strides_down_and_across():
    """On 13 x 21 cells of an 800 x 1344 image torchvision's stride is 61 down and 64 across."""
    stride = (800 // 13, 1344 // 21)
    anchors = make_grid_anchors(make_cell_anchors(512, [1]), (13, 21), stride)
    centres = (anchors[:, :2] + anchors[:, 2:]).reshape(13, 21, 2) / 2
    np.testing.assert_array_equal(centres[2, 3], [3 * 64, 2 * 61])
