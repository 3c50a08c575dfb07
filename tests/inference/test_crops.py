import numpy as np
import pytest

from segjax.inference.sam.crops import Crop, is_cut_off, make_crops, make_point_grid


def test_points_are_cell_centers():
    assert make_point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    np.testing.assert_allclose(make_point_grid(32)[[0, -1]], [[1 / 64] * 2, [63 / 64] * 2])


def test_crops_of_a_square_image_match_hand_computed_boxes():
    """Layer 1 overlaps by 512, so crops are ceil((512 + 1500) / 2) = 1006 wide (appendix B)."""
    crops = make_crops((1500, 1500), 2, 512 / 1500)
    assert [sum(crop.layer == layer for crop in crops) for layer in range(3)] == [1, 4, 16]
    assert crops[0] == Crop((0, 0, 1500, 1500), 0)
    assert [crop.box for crop in crops[1:5]] == [
        (0, 0, 1006, 1006),
        (0, 494, 1006, 1500),
        (494, 0, 1500, 1006),
        (494, 494, 1500, 1500),
    ]
    assert crops[5].size == (567, 567)  # ceil((256 * 3 + 1500) / 4)


def test_crops_cover_an_oblong_image():
    covered = np.zeros((301, 77), int)
    for crop in make_crops((301, 77), 2, 0.3)[5:]:
        crop.cut(covered)[...] += 1
    assert covered.min() >= 1


@pytest.mark.parametrize("hw, layers", [((1, 2000), 1), ((5, 500), 2), ((10, 640), 3), ((1, 1), 2)])
def test_crops_of_few_pixels_are_left_out(hw, layers):
    crops = make_crops(hw, layers, 512 / 1500)
    covered = np.zeros(hw, int)
    for crop in crops:
        assert min(crop.size) > 0
        crop.cut(covered)[...] += 1
    assert covered.min() >= 1 and {crop.layer for crop in crops} == set(range(layers + 1))


def test_boxes_at_the_crops_edge_are_cut_off():
    crop = Crop((0, 100, 300, 400), 1)
    boxes = np.array(
        [[0, 150, 50, 200], [280, 150, 290, 200], [100, 119, 150, 200], [100, 121, 150, 300]],
        np.float32,
    )
    # At the image's own left edge, at the crop's right edge, at the crop's top edge, near no edge
    assert is_cut_off(boxes, crop, (600, 600)).tolist() == [False, True, True, False]
    assert not is_cut_off(boxes, Crop((0, 0, 300, 400), 0), (400, 300)).any()
