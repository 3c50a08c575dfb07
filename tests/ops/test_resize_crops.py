"""Crops resized on the device equal those of Pillow."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from segjax.data.examples.crop import CropExample
from segjax.ops.resize import antialiased_cubic_weights, resize_crops

resized = jax.jit(resize_crops, static_argnums=2)


def draw_waves(hw):
    """Returns a smooth image with the edges of a rectangle."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    waves = [127 + 90 * np.sin(x / 9 + c) * np.cos(y / (7 + 2 * c)) for c in range(3)]
    pixels = np.stack(waves, -1)
    pixels[hw[0] // 3 : hw[0] // 2, hw[1] // 4 : hw[1] // 2] = (250, 10, 128)
    return pixels.astype(np.uint8)


@pytest.mark.parametrize("hw", [(48, 64), (64, 48), (40, 40), (48, 200), (200, 150), (20, 20)])
def test_crops_resized_on_the_device_equal_those_of_the_host(hw):
    image_file = Image.fromarray(draw_waves(hw))
    buffer = io.BytesIO()
    image_file.save(buffer, "PNG")
    record = {"image": buffer.getvalue(), "image_id": "a"}
    host, framed = CropExample(32), CropExample(32, frame=48)
    wanted = [host(record, np.random.default_rng(seed))["image"] for seed in range(24)]
    examples = [framed(record, np.random.default_rng(seed)) for seed in range(24)]
    image, window = (
        np.stack([example[name] for example in examples]) for name in ("image", "window")
    )
    assert image.shape == (24, 48, 65, 3)
    found = np.asarray(resized(image, window, 32))
    assert found.dtype == np.uint8
    difference = np.abs(found.astype(int) - np.stack(wanted))
    transposed = window[:, 2] == 1
    assert difference[~transposed].max(initial=0) <= 1
    assert (
        difference.max() <= 12 and difference.mean() < 0.1
    )  # clipped in the other order at the rectangle's corners
    assert 0 < window[:, 3].sum() < 24
    whole = (window[:, :2] == 32).all(1)
    assert whole.any() == (
        max(hw) > 48 and min(hw) > 48
    )  # too large for the frame: the host has resized it


def test_pixels_outside_the_crop_have_no_effect():
    frames = np.full((2, 48, 64, 3), 255, np.uint8)
    frames[0, :30, :50] = frames[1, :20, :40] = 7
    windows = np.array([[30, 50, 0, 0], [40, 20, 1, 1]], np.int32)
    assert (np.asarray(resized(frames, windows, 32)) == 7).all()


def test_weights_of_the_same_size_are_the_identity():
    weights = np.asarray(
        jax.jit(antialiased_cubic_weights, static_argnums=(1, 2))(np.array([5, 3]), 7, 5)
    )
    np.testing.assert_allclose(weights[0], np.eye(5, 7), atol=1e-6)
    np.testing.assert_allclose(weights[1].sum(-1), 1, rtol=1e-6)
    assert not weights[1][:, 3:].any()


def test_placeholders_fit_and_evaluation_crops_on_the_host():
    example = CropExample(32, frame=48)
    record = {"image": draw_waves((48, 60)), "image_id": "a"}
    blank, real = example.placeholder(), example(record, np.random.default_rng(0))
    assert blank["weight"] == 0 and {k: (v.shape, v.dtype) for k, v in blank.items()} == {
        k: (v.shape, v.dtype) for k, v in real.items()
    }
    fixed = CropExample(32, frame=48, train=False)(record, None)
    assert fixed["image"].shape == (32, 32, 3) and "window" not in fixed
    with pytest.raises(ValueError, match="crop frame is 16; expected at least the canvas, 32"):
        CropExample(32, frame=16)
