import io

import numpy as np
import pytest
from PIL import Image

from segjax.data.examples.augmentation import Augmentation, draw_placement, jitter_colors
from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.decoding import ImageError, decode_image, stretch_intensities
from segjax.images.placement import Placement
from segjax.images.transforms import (
    compute_fitted_size,
    pad_to_canvas,
    resize_longest_side,
    scale_boxes,
    scale_points,
)


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


# --- decoding ---------------------------------------------------------------------------------------------------

PICTURE = np.random.default_rng(0).integers(0, 256, (11, 17, 3), np.uint8)
GREY = PICTURE[:, :, 0]
ALPHA = np.concatenate([PICTURE, np.full((11, 17, 1), 9, np.uint8)], axis=-1)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (PICTURE, PICTURE),
        (encoded(PICTURE), PICTURE),
        (ALPHA, PICTURE),
        (encoded(ALPHA), PICTURE),
        (GREY, np.stack([GREY] * 3, -1)),
        (GREY[..., None], np.stack([GREY] * 3, -1)),
        (encoded(GREY), np.stack([GREY] * 3, -1)),
        (encoded(Image.fromarray(GREY > 99)), np.stack([(GREY > 99) * np.uint8(255)] * 3, -1)),
    ],
    ids=["array", "png", "rgba", "rgba png", "grey", "grey channel", "grey png", "1-bit png"],
)
def test_decodes_to_rgb(source, expected):
    image = decode_image(source)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


def test_sixteen_bits_stretch_over_their_own_range():
    deep = np.linspace(300, 4095, 12 * 10).reshape(12, 10).astype(np.uint16)  # a 12-bit camera
    for source in (deep, encoded(deep), encoded(deep, "TIFF")):
        image = decode_image(source)
        assert image.shape == (12, 10, 3) and image.min() == 0 and image.max() == 255
        assert (np.diff(image[..., 0].ravel().astype(int)) >= 0).all()
    assert not decode_image(
        np.full((4, 4), 700, np.uint16)
    ).any()  # flat: black, no division by zero


def test_percentiles_ignore_a_few_hot_pixels():
    dim = np.random.default_rng(1).integers(10, 60, (50, 50)).astype(np.uint8)
    dim[0, 0] = 255
    image = decode_image(dim, percentiles=(1, 99))
    assert image[dim < 11].max() <= 5 and image[dim > 58].min() >= 245
    coloured = np.stack([dim, dim // 2, dim // 4], -1)
    stretched = decode_image(coloured, percentiles=(1, 99)).astype(int)
    assert (stretched[..., 0] >= stretched[..., 2]).all()  # all channels alike, so hues stay


def test_stretch_is_linear_and_clips():
    np.testing.assert_array_equal(
        stretch_intensities(np.array([0, 10, 15, 20, 90]), 10, 20), [0, 0, 128, 255, 255]
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "photo.jpg: the file is empty"),
        (b"hello, I am a text file", "photo.jpg: 23 bytes that are not an image.*b'hello, I"),
        (
            encoded(load_demonstration_photograph(), "JPEG")[:9000],
            "photo.jpg.*9000 bytes is truncated",
        ),
        (encoded(PICTURE)[:-40], "photo.jpg.*truncated or damaged"),
        (PICTURE / np.float32(255), r"pixels are float32.*\* 255"),
        (PICTURE.astype(np.int64), "pixels are int64; expected uint8"),
        (PICTURE.transpose(2, 0, 1), r"shape \(3, 11, 17\).*channels go last"),
        (PICTURE[..., :2], r"shape \(11, 17, 2\)"),
        (PICTURE[None], r"shape \(1, 11, 17, 3\)"),
        (PICTURE[:0], "no pixels"),
        (encoded(Image.fromarray(PICTURE[..., 0].astype(np.float32)), "TIFF"), "32 bits per pixel"),
    ],
)
def test_what_is_no_image_says_so(source, message):
    with pytest.raises(ImageError, match=message):
        decode_image(source, name="photo.jpg")


# --- into the model's frame -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hw", "canvas", "expected"),
    [
        ((400, 600), 1024, (683, 1024)),  # 682.67 rounds up
        ((600, 400), 1024, (1024, 683)),
        ((1500, 2250), 1024, (683, 1024)),
        ((427, 640), 128, (85, 128)),  # 85.4 rounds down
        ((128, 128), 128, (128, 128)),
        ((1, 5000), 1024, (1, 1024)),  # 0.2 would vanish
    ],
)
def test_sizes_round_as_sam_rounds(hw, canvas, expected):
    assert compute_fitted_size(hw, canvas) == expected


def test_resize_is_pillows_antialiased_bilinear():
    photograph = load_demonstration_photograph()
    image = resize_longest_side(photograph, 256)
    assert image.shape == (171, 256, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(
        image, np.asarray(Image.fromarray(photograph).resize((256, 171), Image.BILINEAR))
    )
    # Antialiased: a checkerboard of single pixels becomes grey, where plain bilinear keeps some squares.
    board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, -1)
    assert np.abs(resize_longest_side(board, 16)[1:-1, 1:-1].astype(int) - 127).max() < 6
    np.testing.assert_array_equal(resize_longest_side(photograph, 600), photograph)


def test_padding_is_zeros_right_and_below():
    padded = pad_to_canvas(PICTURE, 20)
    np.testing.assert_array_equal(padded[:11, :17], PICTURE)
    assert padded.shape == (20, 20, 3) and not padded[11:].any() and not padded[:, 17:].any()
    with pytest.raises(ValueError, match="11 x 17 pixels does not fit a canvas of 16"):
        pad_to_canvas(PICTURE, 16)


def test_coordinates_scale_by_the_rounded_sizes():
    # 427 x 640 on a canvas of 128: 85 x 128, so x by .2 but y by 85/427, not .2.
    points = scale_points([[320, 427], [0, 0]], (427, 640), (85, 128))
    np.testing.assert_allclose(points, [[64, 85], [0, 0]], rtol=1e-6)
    assert points.dtype == np.float32
    boxes = scale_boxes([[0, 0, 640, 427], [320, 42.7, 480, 85.4]], (427, 640), (85, 128))
    np.testing.assert_allclose(boxes, [[0, 0, 128, 85], [64, 8.5, 96, 17]], rtol=1e-6)
    back = scale_boxes(boxes, (85, 128), (427, 640))
    np.testing.assert_allclose(back, [[0, 0, 640, 427], [320, 42.7, 480, 85.4]], rtol=1e-5)


# --- augmentation -----------------------------------------------------------------------------------------------


def rectangle_scene(rng, hw):
    """An image of blue noise with one rectangle that alone is green, and the rectangle's mask."""
    image = rng.integers(0, 256, (*hw, 3), np.uint8) * np.array([0, 0, 1], np.uint8)
    mask = np.zeros(hw, bool)
    y, x = rng.integers(5, hw[0] // 2), rng.integers(5, hw[1] // 2)
    mask[y : y + rng.integers(20, 40), x : x + rng.integers(20, 40)] = True
    image[mask] = (0, 255, 0)
    return image, mask


def test_picture_and_mask_move_together():
    rng = np.random.default_rng(3)
    options = Augmentation(scale=(0.4, 2.0), flip=True, vertical_flip=True, quarter_turns=True)
    seen = 0
    for _ in range(60):
        image, mask = rectangle_scene(rng, (90, 120))
        placement = draw_placement((90, 120), 96, options, rng)
        content, moved = placement.apply(image), placement.apply_mask(mask)
        assert content.shape[:2] == moved.shape == placement.size
        np.testing.assert_array_equal(content[..., 1] >= 128, moved, err_msg=str(placement))
        seen += moved.any()
    assert seen > 40


def test_hits_is_exact_about_which_boxes_reach_the_window():
    rng = np.random.default_rng(4)
    options = Augmentation(scale=(1.5, 4.0), flip=True, vertical_flip=True, quarter_turns=True)
    agreed = {True: 0, False: 0}
    for _ in range(80):
        _, mask = rectangle_scene(rng, (90, 120))
        rows, columns = np.nonzero(mask)
        box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        placement = draw_placement((90, 120), 64, options, rng)
        visible = placement.apply_mask(mask).sum()
        hit = bool(placement.overlaps_window(box)[0])
        assert hit or visible == 0
        if hit and visible == 0:  # only a sliver thinner than half a pixel may reach in unseen
            thicker = Placement(**(placement.__dict__ | {"size": tuple(np.add(placement.size, 2))}))
            assert thicker.overlaps_window(box)[0]
        agreed[hit] += 1
    assert min(agreed.values()) > 5


def test_cropping_equals_resizing_then_cropping():
    photograph = load_demonstration_photograph()
    placement = Placement((400, 600), (200, 300), (37, 111), (96, 96))
    whole = np.asarray(Image.fromarray(photograph).resize((300, 200), Image.BILINEAR))
    difference = placement.apply(photograph).astype(int) - whole[37 : 37 + 96, 111 : 111 + 96]
    assert np.abs(difference).max() <= 1


def test_identity_is_exact():
    image, mask = rectangle_scene(np.random.default_rng(5), (96, 96))
    placement = draw_placement((96, 96), 96, Augmentation(), np.random.default_rng(0))
    np.testing.assert_array_equal(placement.apply(image), image)
    np.testing.assert_array_equal(placement.apply_mask(mask), mask)
    assert placement.size == (96, 96)


def test_flips_and_turns_are_those_of_numpy():
    image, mask = rectangle_scene(np.random.default_rng(6), (96, 64))
    turned = Placement((96, 64), (64, 96), (0, 0), (64, 96), turns=1, flip_x=True)
    np.testing.assert_array_equal(turned.apply(image), np.rot90(image)[:, ::-1])
    np.testing.assert_array_equal(turned.apply_mask(mask), np.rot90(mask)[:, ::-1])
    upside_down = Placement((96, 64), (96, 64), (0, 0), (96, 64), flip_y=True)
    np.testing.assert_array_equal(upside_down.apply(image), image[::-1])


def test_scale_jitter_covers_its_range_crops_and_pads():
    rng = np.random.default_rng(7)
    draws = [
        draw_placement((300, 400), 128, Augmentation(scale=(0.1, 2.0)), rng) for _ in range(2000)
    ]
    scales = np.array([max(draw.resized) / 128 for draw in draws])
    assert scales.min() < 0.13 and scales.max() > 1.97 and abs(scales.mean() - 1.05) < 0.04
    assert all(max(draw.size) <= 128 for draw in draws)
    offsets = np.array(
        [draw.offset[1] / (draw.resized[1] - 128) for draw in draws if draw.resized[1] > 140]
    )
    assert offsets.min() < 0.05 and offsets.max() > 0.95 and abs(offsets.mean() - 0.5) < 0.04
    flips = np.mean(
        [draw_placement((9, 9), 9, Augmentation(flip=True), rng).flip_x for _ in range(1000)]
    )
    assert 0.44 < flips < 0.56


def test_colour_jitter_keeps_order_and_stays_in_range():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rng = np.random.default_rng(8)
    for _ in range(20):
        jittered = jitter_colors(image, Augmentation(brightness=0.3, contrast=0.4), rng)
        assert jittered.dtype == np.uint8 and (np.diff(jittered.ravel().astype(int)) >= 0).all()
    assert jitter_colors(image, Augmentation(), rng) is image
    shifted = jitter_colors(image, Augmentation(brightness=0.3), rng).astype(int) - image
    assert len(np.unique(shifted[4:12])) == 1 and abs(shifted[8, 8]) <= 77


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotate": True}, "unknown augmentation rotate; there are scale, short_sides"),
        ({"scale": (0, 2)}, "0 < low <= high"),
        ({"scale": (2, 1)}, "0 < low <= high"),
        ({"brightness": 2.0}, "brightness lies in 0..1"),
    ],
)
def test_wrong_augmentations_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation.from_dict(options)
