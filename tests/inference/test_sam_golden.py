"""Images, prompts and masks move to the canvas and back as in the reference implementation.

Its results are stored by tools/make_goldens.py.
"""

import pathlib

import flax.linen as nn
import numpy as np
import pytest
from golden.sam_inputs import (
    FRAMES,
    make_framed_image,
    make_framed_logits,
    make_framed_prompts,
    subsample,
)

from segjax.images.transforms import (
    compute_fitted_size,
    resize_longest_side,
    scale_boxes,
    scale_points,
)
from segjax.inference.sam import jitted
from segjax.inference.sam.postprocess import compute_image_weights, resize_masks
from segjax.models.sam.build import build_sam
from segjax.models.sam.image_encoder import ImageEncoder

CASES = [(canvas, hw) for canvas, sizes in FRAMES.items() for hw in sizes]
every_frame = pytest.mark.parametrize(
    "canvas, hw", CASES, ids=[f"{canvas}-{h}x{w}" for canvas, (h, w) in CASES]
)


@pytest.fixture(scope="module")
def golden():
    with np.load(pathlib.Path(__file__).parent.parent / "golden" / "sam_frame.npz") as file:
        stored = dict(file)
    return lambda canvas, hw, name: stored[f"{canvas}/{hw[0]}x{hw[1]}/{name}"]


def to_stored_form(array, canvas, factor=1):
    return subsample(np.asarray(array), factor * (128 if canvas == 64 else 12))


@every_frame
def test_resized_content_equals_the_reference_bytewise(golden, canvas, hw):
    content = resize_longest_side(make_framed_image(hw), canvas)
    assert content.shape[:2] == tuple(golden(canvas, hw, "size")) == compute_fitted_size(hw, canvas)
    np.testing.assert_array_equal(to_stored_form(content, canvas), golden(canvas, hw, "content"))


@every_frame
def test_the_encoder_input_equals_the_reference(golden, canvas, hw, monkeypatch):
    """Runs `encode_images`, as every prediction does, without the encoder itself."""
    seen = []

    def encoder(call, args, kwargs, context):
        if isinstance(context.module, ImageEncoder):
            seen.append(np.asarray(args[0]))
            return args[0]
        return call(*args, **kwargs)

    # Not compiled, so that the patched call does not stay in the cache of compiled programs.
    monkeypatch.setattr(jitted, "encode_canvases", jitted.encode_canvases.__wrapped__)
    with nn.intercept_methods(encoder):
        contents = jitted.resize_to_canvas([make_framed_image(hw)], canvas)
        jitted.encode_images(build_sam("sam_debug", canvas=canvas), {}, contents)
    (pixels,) = seen
    assert pixels.shape == (1, canvas, canvas, 3) and pixels.dtype == np.float32
    np.testing.assert_allclose(
        to_stored_form(pixels[0], canvas), golden(canvas, hw, "pixels"), rtol=0, atol=1e-6
    )


@every_frame
def test_scaled_points_and_boxes_equal_the_reference(golden, canvas, hw):
    points, boxes = make_framed_prompts(hw)
    content = compute_fitted_size(hw, canvas)
    np.testing.assert_allclose(
        scale_points(points, hw, content), golden(canvas, hw, "points"), rtol=1e-7, atol=0
    )
    np.testing.assert_allclose(
        scale_boxes(boxes, hw, content), golden(canvas, hw, "boxes"), rtol=1e-7, atol=0
    )


@every_frame
def test_logits_resized_to_the_image_equal_the_reference(golden, canvas, hw):
    """Agrees to 5e-7 of the largest magnitude. The measured difference is 1.3e-7."""
    model = build_sam("sam_debug", canvas=canvas)
    low_res = make_framed_logits(hw, model.mask_side)
    sides = zip(compute_fitted_size(hw, canvas), hw, strict=True)
    weights = [compute_image_weights(model.mask_side, canvas, *side) for side in sides]
    full = resize_masks(low_res[:1], *weights, return_logits=True)
    assert full.shape == (1, *hw)
    want = golden(canvas, hw, "logits")
    np.testing.assert_allclose(
        to_stored_form(full, canvas, factor=2), want, rtol=0, atol=5e-7 * np.abs(want).max()
    )
