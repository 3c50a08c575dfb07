"""Decoding: kinds of arrays and encoded images, 16 bits, percentiles, and invalid images."""

import io

import numpy as np
import pytest
from PIL import Image

from segjax.data.synthetic.photographs import load_demonstration_photograph
from segjax.images.decoding import ImageError, decode_image
from segjax.images.intensities import stretch_intensities


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, form, **options)
    return buffer.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (11, 17, 3), np.uint8)
GRAY = PIXELS[:, :, 0]
ALPHA = np.concatenate([PIXELS, np.full((11, 17, 1), 9, np.uint8)], axis=-1)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (PIXELS, PIXELS),
        (encoded(PIXELS), PIXELS),
        (ALPHA, PIXELS),
        (encoded(ALPHA), PIXELS),
        (GRAY, np.stack([GRAY] * 3, -1)),
        (GRAY[..., None], np.stack([GRAY] * 3, -1)),
        (encoded(GRAY), np.stack([GRAY] * 3, -1)),
        (encoded(Image.fromarray(GRAY > 99)), np.stack([(GRAY > 99) * np.uint8(255)] * 3, -1)),
    ],
    ids=["array", "png", "rgba", "rgba png", "gray", "gray channel", "gray png", "1-bit png"],
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
    ).any()  # a flat image is black, without a division by zero


def test_percentiles_ignore_a_few_hot_pixels():
    dim = np.random.default_rng(1).integers(10, 60, (50, 50)).astype(np.uint8)
    dim[0, 0] = 255
    image = decode_image(dim, percentiles=(1, 99))
    assert image[dim < 11].max() <= 5 and image[dim > 58].min() >= 245
    coloured = np.stack([dim, dim // 2, dim // 4], -1)
    stretched = decode_image(coloured, percentiles=(1, 99)).astype(int)
    assert (stretched[..., 0] >= stretched[..., 2]).all()  # equal for all channels, so hues stay


@pytest.mark.parametrize(
    "percentiles", [(99, 1), (5, 5), (-1, 99), (1, 101), (np.nan, 99), (1,), (1, 2, 3), 5, ("a", 1)]
)
def test_percentiles_that_are_not_two_rising_numbers_are_named(percentiles):
    with pytest.raises(ValueError, match="percentiles are .*expected two numbers"):
        decode_image(np.zeros((2, 2), np.uint8), percentiles=percentiles)


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
        (encoded(PIXELS)[:-40], "photo.jpg.*truncated or damaged"),
        (PIXELS / np.complex64(255), "pixels are complex64; expected uint8"),
        (PIXELS.astype(np.int64), "pixels are int64; expected uint8"),
        (PIXELS.transpose(2, 0, 1), r"shape \(3, 11, 17\).*channels go last"),
        (PIXELS[..., :2], r"shape \(11, 17, 2\)"),
        (PIXELS[None], r"shape \(1, 11, 17, 3\)"),
        (PIXELS[:0], "no pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "photo.jpg.*not an image.*%!PS"),
    ],
)
def test_invalid_images_raise(source, message):
    with pytest.raises(ImageError, match=message):
        decode_image(source, name="photo.jpg")
