"""Drawn detections: the colors of pixels."""

import numpy as np
import pytest

from segjax import viz


def make_gray(height=120, width=160, level=100):
    return np.full((height, width, 3), level, np.uint8)


RED, BLUE = (200, 0, 0), (0, 0, 250)


def test_boxes_masks_and_tags_have_the_color_of_the_object():
    masks = np.zeros((2, 120, 160), bool)
    masks[0, 30:60, 40:80] = True
    boxes = [[40, 30, 80, 60], [100, 60, 150, 110]]
    out = viz.draw_detections(
        make_gray(), boxes, masks, [1, 0], [0.9, 0.5], ["cup", "zebra"], colors=[RED, BLUE]
    )
    np.testing.assert_array_equal(out[30, 50], RED)  # box
    np.testing.assert_array_equal(out[59, 79], RED)
    np.testing.assert_array_equal(out[45, 60], [145, 55, 55])  # 45 % of red over gray
    np.testing.assert_array_equal(out[90, 120], [100, 100, 100])  # no mask
    np.testing.assert_array_equal(out[60, 120], BLUE)
    assert (out[18:29, 40:100] == RED).all(-1).mean() > 0.3  # the tag above the box
    assert (out[:, 151:] == 100).all()
    bare = viz.draw_detections(make_gray(), boxes, colors=[RED, BLUE])
    assert (bare[:29] == 100).all()


def test_the_most_confident_is_on_top_and_no_detections_are_valid():
    boxes = [[10, 30, 90, 90], [10, 30, 90, 90]]
    out = viz.draw_detections(make_gray(), boxes, scores=[0.2, 0.8], colors=[RED, BLUE])
    np.testing.assert_array_equal(out[89, 50], BLUE)
    image = make_gray()
    nothing = viz.draw_detections(image, np.zeros((0, 4)), np.zeros((0, 120, 160), bool), [], [])
    np.testing.assert_array_equal(nothing, image)


@pytest.mark.parametrize(("count", "widest"), [(1, "cup 0.90"), (5, "0.90"), (40, "")])
def test_tags_do_not_hide_a_crowd(count, widest):
    """Tags of objects in one place get narrower as there are more of them."""
    arrays = dict(boxes=[[20, 60, 22, 62]] * count, labels=[0] * count, scores=[0.9] * count)
    out = viz.draw_detections(make_gray(), **arrays, names=["cup"], colors=[RED])
    width = (out[40:59] == RED).all(-1).any(0).sum()
    expected = {"cup 0.90": (35, 60), "0.90": (20, 34), "": (0, 0)}[widest]
    assert expected[0] <= width <= expected[1]


def test_labeled_keypoints_are_drawn():
    keypoints = np.array([[[60, 60, 2], [100, 60, 1], [30, 100, 0]]])
    out = viz.draw_detections(
        make_gray(),
        [[10, 40, 120, 110]],
        keypoints=keypoints,
        skeleton=[(0, 1), (1, 2)],
        colors=[RED],
    )
    np.testing.assert_array_equal(out[60, 60], RED)
    np.testing.assert_array_equal(out[60, 80], RED)  # the limb between them
    assert (out[90:105, 20:40] == 100).all()


def test_a_small_image_is_enlarged_for_its_tags():
    assert [
        viz.choose_readable_scale(hw) for hw in ((64, 48), (256, 100), (480, 640), (8, 9000))
    ] == [
        8,
        2,
        1,
        1,
    ]
    arrays = dict(
        labels=[0], scores=[0.9], keypoints=[[[20, 50, 2]]], names=["zebra"], colors=[RED]
    )
    small = viz.draw_detections(make_gray(64, 64), [[10, 40, 30, 60]], **arrays)
    large = viz.draw_detections(make_gray(512, 512), [[10, 40, 30, 60]], **arrays, scale=8)
    np.testing.assert_array_equal(large[320, 80:240], [RED] * 160)  # box
    np.testing.assert_array_equal(large[400, 160], RED)  # keypoint
    tags = [(rows == RED).all(-1).any(0).sum() for rows in (small[28:39], large[300:319])]
    assert 20 <= tags[0] <= 34 and 60 <= tags[1] <= 90, (
        "the small image has room for the score alone, the large one for the name too"
    )


def test_the_sheet_shows_ground_truth_beside_confident_detections():
    masks = np.zeros((1, 120, 160), bool)
    masks[0, 30:60, 40:80] = True
    ground_truth = {"boxes": np.array([[40, 30, 80, 60]]), "masks": masks, "labels": [0]}
    detections = {
        "boxes": [[40, 30, 80, 60], [90, 60, 150, 110]],
        "scores": [0.9, 0.1],
        "labels": [0, 0],
    }
    sheet = viz.draw_detection_sheet(
        [make_gray(), make_gray()],
        [ground_truth, ground_truth],
        [detections, {"boxes": np.zeros((0, 4))}],
        ["cup"],
    )
    assert sheet.dtype == np.uint8 and 2 * 256 < sheet.shape[1] < 3 * 256
    all_shown = viz.draw_detection_sheet(
        [make_gray()], [ground_truth], [detections], threshold=0.05
    )
    assert (
        all_shown != viz.draw_detection_sheet([make_gray()], [ground_truth], [detections])
    ).any()


def test_arrays_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="2 scores for 1 boxes"):
        viz.draw_detections(make_gray(), [[1, 1, 9, 9]], scores=[0.1, 0.2])
    with pytest.raises(ValueError, match="do not fit an image"):
        viz.draw_detections(make_gray(), [[1, 1, 9, 9]], np.zeros((1, 5, 5), bool))
