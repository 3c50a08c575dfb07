"""Drawn masks, prompts and sheets: the colors of pixels."""

import numpy as np
import pytest

from segjax import viz
from segjax.viz import sheets


def make_gray(height=40, width=60, level=100):
    return np.full((height, width, 3), level, np.uint8)


def make_rectangle(x1, y1, x2, y2, height=40, width=60):
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def test_masks_are_tinted_and_outlined_and_the_rest_is_unchanged():
    image = make_gray()
    out = viz.draw_masks(image, make_rectangle(10, 10, 30, 30), [(200, 0, 0)], opacity=0.5)
    assert out.dtype == np.uint8 and out.shape == image.shape
    np.testing.assert_array_equal(out[20, 20], [150, 50, 50])
    np.testing.assert_array_equal(out[10, 15], [200, 0, 0])
    np.testing.assert_array_equal(out[9, 15], [100, 100, 100])
    assert (image == 100).all(), "the input must stay as it was"


def test_a_label_map_is_tinted_and_borders_are_solid():
    image, labels = make_gray(level=100), np.zeros((40, 60), int)
    labels[10:30, 10:30], labels[10:30, 30:50] = 1, 3
    out = viz.draw_label_map(image, labels, [(200, 0, 0), (0, 0, 0)], opacity=0.5)
    np.testing.assert_array_equal(out[20, 20], [150, 50, 50])
    for y, x in (
        (20, 29),
        (20, 30),
        (20, 10),
        (20, 49),
        (10, 20),
        (29, 20),
    ):  # label 3 has the first color again
        np.testing.assert_array_equal(out[y, x], [200, 0, 0])
    np.testing.assert_array_equal(out[20, 40], [150, 50, 50])
    np.testing.assert_array_equal(out[5, 5], [100, 100, 100])
    assert (image == 100).all(), "the input must stay as it was"
    with pytest.raises(ValueError, match="do not fit"):
        viz.draw_label_map(image, labels[:5])


def test_smaller_masks_are_above_larger_ones_with_their_own_colors():
    masks = np.stack([make_rectangle(20, 15, 30, 25), make_rectangle(5, 5, 50, 35)])
    out = viz.draw_masks(make_gray(), masks, [(255, 0, 0), (0, 0, 255)], opacity=1.0)
    np.testing.assert_array_equal(out[20, 25], [255, 0, 0])
    np.testing.assert_array_equal(out[8, 8], [0, 0, 255])


def test_a_highlighted_mask_keeps_its_colors_and_the_rest_is_dim():
    image = np.broadcast_to(np.array([200, 60, 20], np.uint8), (40, 60, 3)).copy()
    out = viz.draw_highlighted_mask(image, make_rectangle(10, 5, 50, 35), (0, 0, 255)).astype(int)
    assert np.ptp(out[0, 0]) < 40 and out[0, 0].max() < 90
    assert np.abs(out[20, 30] - image[20, 30]).max() <= 0.15 * 255
    np.testing.assert_array_equal(out[5, 20], [0, 0, 255])


def test_points_are_green_or_red_and_padding_is_not_drawn():
    points = np.array([[10, 20], [30, 20], [50, 20]], np.float32)
    out = viz.draw_prompts(make_gray(), points, np.array([1, 0, -1]), radius=8)
    np.testing.assert_array_equal(out[20, 10], viz.FOREGROUND)
    np.testing.assert_array_equal(out[20, 30], viz.BACKGROUND)
    assert (out[:, 42:] == 100).all()
    assert (out == 255).all(axis=2).any(), "a star has a white rim"


def test_coordinates_are_pixel_centers_of_the_unscaled_frame():
    out = viz.draw_prompts(make_gray(80, 120), np.array([[10, 20]]), scale=4.0, radius=6).astype(
        int
    )
    ys, xs = np.nonzero(np.abs(out - 100).sum(axis=2))
    assert abs((xs.min() + xs.max()) / 2 + 0.5 - 10.5 * 4) <= 1
    # A five-pointed star is not symmetric up and down, so its upper tip locates it.
    assert abs(ys.min() - (20.5 * 4 - 1.25 * 6)) <= 1


def test_points_at_the_border_and_outside_are_valid():
    out = viz.draw_prompts(
        make_gray(), np.array([[0, 0], [59, 39], [500, -20]]), radius=8, numbers=True
    )
    np.testing.assert_array_equal(out[0, 0], viz.FOREGROUND)


def test_a_box_frames_its_pixels():
    out = viz.draw_prompts(make_gray(), boxes=np.array([10, 5, 20, 15]))
    np.testing.assert_array_equal(out[5, 10], viz.FOREGROUND)
    np.testing.assert_array_equal(out[14, 19], viz.FOREGROUND)
    assert (out[15] == 100).all() and (out[:, 20] == 100).all()
    np.testing.assert_array_equal(out[10, 15], [100, 100, 100])


def test_errors_have_their_own_colors():
    out = viz.draw_errors(
        make_gray(), make_rectangle(10, 10, 30, 30), make_rectangle(20, 10, 40, 30)
    ).astype(int)
    missed, wrong, correct, outside = out[20, 35], out[20, 15], out[20, 25], out[0, 0]
    assert missed[2] > missed[0] + 80 and wrong[0] > wrong[2] + 80
    assert np.ptp(correct) == np.ptp(outside) == 0 and correct[0] > outside[0] + 50


def make_rounds(images=2, canvas=64, clicks=4):
    ground_truth = np.stack([make_rectangle(10, 10, 40, 40, canvas, canvas)] * images)
    predictions = np.stack(
        [np.stack([make_rectangle(10, 10, 20 + 5 * k, 40, canvas, canvas) for k in range(clicks)])]
        * images
    )
    return {
        "image": np.full((images, canvas, canvas, 3), 120, np.uint8),
        "size": np.array([[canvas, canvas], [48, canvas]], np.int32)[:images],
        "ground_truth": ground_truth,
        "points": np.full((images, clicks, 2), 25, np.float32),
        "labels": np.array([[1, 0, 1, -1]] * images, np.int32),
        "predictions": predictions,
        "iou": np.full((images, clicks), 0.5, np.float32),
    }


def test_the_sheet_has_a_row_per_image_and_enlarges_small_ones():
    one = viz.draw_interaction_sheet({name: value[:1] for name, value in make_rounds().items()})
    two = viz.draw_interaction_sheet(make_rounds())
    assert one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3
    assert two.shape[1] == one.shape[1] > 6 * 256, "six panels of at least 256 pixels"
    # The second image has 48 of 64 rows, so its row of panels is three quarters as high.
    assert 0.7 * 256 < two.shape[0] - one.shape[0] < 0.95 * 256
    assert viz.draw_interaction_sheet(make_rounds(), counts=[1, 2, 4]).shape[1] > two.shape[1]
    with pytest.raises(ValueError, match=r"1\.\.4"):
        viz.draw_interaction_sheet(make_rounds(), counts=[5])


def test_the_sheet_shows_ground_truth_errors_and_clicks():
    sheet = viz.draw_interaction_sheet(make_rounds(images=1)).reshape(-1, 3)
    for color in (viz.FOREGROUND, viz.BACKGROUND, viz.MISSED):
        assert (sheet == color).all(axis=1).sum() > 50, f"no {color} on the sheet"


def test_invalid_arrays_raise_with_the_expected_shape():
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], RGB; got float64"):
        viz.draw_masks(np.zeros((4, 4, 3)), np.zeros((4, 4), bool))
    with pytest.raises(ValueError, match=r"masks \(1, 5, 4\) do not fit"):
        viz.draw_masks(make_gray(4, 4), np.zeros((5, 4), bool))
    with pytest.raises(ValueError, match="2 points but 1 labels"):
        viz.draw_prompts(make_gray(), np.zeros((2, 2)), np.ones(1))


def test_hidden_and_filled_patches_leave_the_others_unchanged():
    image = np.full((8, 12, 3), 10, np.uint8)
    masked = np.array([[True, False, False], [False, False, True]])
    hidden = viz.hide_patches(image, masked, (1, 2, 3))
    filled = viz.fill_patches(image, np.full_like(image, 99), masked)
    where = masked.repeat(4, 0).repeat(4, 1)
    assert (hidden[where] == (1, 2, 3)).all() and (filled[where] == 99).all()
    assert (hidden[~where] == 10).all() and (filled[~where] == 10).all()
    with pytest.raises(ValueError, match=r"grid \(3, 3\) .* does not divide an image of 8 x 12"):
        viz.hide_patches(image, np.zeros((3, 3), bool))


def test_the_reconstruction_sheet_has_three_panels_per_image():
    images = np.zeros((2, 32, 32, 3), np.uint8)
    arrays = images, images + 255, np.ones((2, 2, 2), bool)
    sheet = viz.draw_reconstruction_sheet(*arrays)
    said = viz.draw_reconstruction_sheet(*arrays, colors_from_original=True)
    changed = np.nonzero((said != sheet).any(axis=(0, 2)))[0]
    assert 256 < changed.min() < changed.max() < 2 * 256 + 40, "the caption of the second panel"
    gap, side = sheets.GAP, sheets.SMALLEST_PANEL
    top = round(1.9 * max(15, side // 17)) + side // 2
    middle = lambda column: sheet[top, gap + column * (side + gap) + side // 2].tolist()
    assert [middle(0), middle(1), middle(2)] == [[128] * 3, [255] * 3, [0] * 3]


def test_the_classification_sheet_frames_wrong_predictions():
    images = np.zeros((5, 32, 32, 3), np.uint8)
    sheet = viz.draw_classification_sheet(
        images, np.arange(5), np.array([0, 1, 2, 0, 4]), ("asp", "owl")
    )
    gap, side = sheets.GAP, 192
    assert sheet.shape[1] == gap + 4 * (side + gap)  # four columns, so two rows
    top = round(1.9 * max(15, side // 17))
    corner = lambda column: sheet[top, gap + column * (side + gap)].tolist()
    assert [corner(column) for column in range(4)] == [[0] * 3] * 3 + [list(viz.WRONG)]
    assert (
        viz.draw_classification_sheet(images[:1], np.array([0]), np.array([0])).shape[1]
        == gap + side + gap
    )
