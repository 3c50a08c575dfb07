"""The detector as a whole: published numbers of parameters, shapes, what freezing does, whose conventions."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model, shapes_of
from segjax.models.detection.conventions import CONVENTIONS, conventions_named, normalised

MODEL = build_model("maskrcnn_debug")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# torchvision's documentation of its weights (`num_params`), which leaves frozen norms out.
@pytest.mark.parametrize(
    "name, published",
    [
        ("maskrcnn_resnet50_fpn", 44_401_393),
        ("maskrcnn_resnet50_fpn_v2", 46_359_409),
        ("keypointrcnn_resnet50_fpn", 59_137_258),
        pytest.param("fasterrcnn_resnet50_fpn", 41_755_286, marks=pytest.mark.slow),
        pytest.param("fasterrcnn_resnet50_fpn_v2", 43_712_278, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_are_torchvision_s(name, published):
    assert count(shapes_of(build_model(name))["params"]) == published


@pytest.mark.parametrize(
    "name, trained, norms",
    [
        # detectron2's R50-FPN has 44,396,336 with the weights and biases of its frozen norms.
        ("mask_rcnn_R_50_FPN", 44_343_216, 53_120),
        # By hand: convolutions of ResNet-101 42,394,816, pyramid 3,344,384, heads 593,935 + 14,306,705 + 2,643,280.
        pytest.param("mask_rcnn_R_101_FPN", 63_283_120, 105_344, marks=pytest.mark.slow),
        # By hand: of R50-FPN's 44,343,216 all but its box head and predictor, 13,895,680 + 1025 x (81 + 320), and three
        # times a box head whose predictor has one box for all classes, 13,895,680 + 1025 x (81 + 4).
        ("cascade_mask_rcnn_R_50_FPN", 44_343_216 - 14_306_705 + 3 * 13_982_805, 53_120),
    ],
)
def test_parameter_counts_are_detectron2_s(name, trained, norms):
    shapes = shapes_of(build_model(name))
    assert count(shapes["params"]) == trained
    assert count(shapes["constants"]) == 2 * norms  # as many statistics as weights and biases


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, width, depth, published",
    [("b", 768, 12, 111), ("l", 1024, 24, 331), ("h", 1280, 32, 662)],
)
def test_parameter_counts_are_vitdet_s(size, width, depth, published):
    """ViTDet, table 5: millions. Ours have no position of a class token, and H has SAM's patches of 16 pixels."""
    params = shapes_of(build_model(f"vitdet_vit_{size}"))["params"]
    assert abs(count(params) / 1e6 - published) < 1
    plain = 12 * width**2 + 13 * width
    tables = sorted(count(block) - plain for block in params["backbone"]["trunk"].values())
    channels = width // (12 if size == "b" else 16)
    # Relative positions of two axes, in windows of 14 and over the grid of 64.
    assert tables == [2 * 27 * channels] * (depth - 4) + [2 * 127 * channels] * 4


def test_every_stage_has_its_shape_and_type():
    run = lambda key: MODEL.init_with_output(key, IMAGES)[0]
    out = jax.eval_shape(run, jax.random.key(0))
    anchors = [16 * 24 * 3, 8 * 12 * 3, 4 * 6 * 3, 2 * 3 * 3, 1 * 2 * 3]
    assert [x.shape for x in out["logits"]] == [(2, n) for n in anchors]
    assert [x.shape for x in out["deltas"]] == [(2, n, 4) for n in anchors]
    assert out["scores"].shape == (1, 4) and out["boxes"].shape == (1, 3, 4)
    assert out["masks"].shape == (1, 28, 28, 3) and out["keypoints"].shape == (1, 56, 56, 2)
    half = build_model("maskrcnn_debug", dtype="bfloat16")
    out = jax.eval_shape(lambda key: half.init_with_output(key, IMAGES), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def variables():
    return jax.tree.map(jnp.asarray, drawn_variables(MODEL, init_model))


def test_padding_is_the_mean_colour_whatever_it_holds(variables):
    encode = jax.jit(
        lambda images, sizes: MODEL.apply(variables, images, sizes, method="encode_image")
    )
    sizes = np.array([[64, 96], [40, 50]])
    found = encode(IMAGES, sizes)
    other = IMAGES.copy()
    other[1, 40:], other[1, :, 50:] = 7, 200
    for one, two in zip(found, encode(other, sizes), strict=True):
        np.testing.assert_array_equal(one, two)
    plain = IMAGES.astype(np.float32)
    plain[1, 40:] = plain[1, :, 50:] = MODEL.rules.pixel_mean
    want = encode(plain, np.array([[64, 96], [64, 96]]))
    for one, two in zip(found, want, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4 * float(jnp.abs(two).max()))


@pytest.mark.parametrize("freeze_at, frozen", [(0, 0), (2, 3), (5, 6)])
def test_what_is_frozen_lies_among_the_constants(freeze_at, frozen):
    """Under the same paths: no gradient, decay, average or optimizer state can reach it."""
    shapes = shapes_of(build_model("maskrcnn_debug", norm="bn", freeze_at=freeze_at))
    fixed, trained = (shapes[name].get("backbone", {}) for name in ("constants", "params"))
    places = [
        "stem",
        "stage_2_block_0",
        "stage_2_block_1",
        *(f"stage_{n}_block_0" for n in (3, 4, 5)),
    ]
    assert sorted(trained) == sorted(places[frozen:])
    for place in places:  # the statistics are constants in any case
        frozen_here = place not in trained
        conv = fixed[place] if place == "stem" else fixed[place]["conv_1"]
        assert sorted(conv) == ["kernel"] * frozen_here + ["norm"]
        assert sorted(conv["norm"]) == sorted(
            ["mean", "variance"] + ["bias", "scale"] * frozen_here
        )
    assert count(shapes) == count(shapes_of(MODEL))


def test_detectron2_takes_blue_first():
    """And divides by nothing."""
    pixel = np.array([[200, 100, 50]], np.uint8)
    found = normalised(jnp.asarray(pixel), CONVENTIONS["detectron2"])
    np.testing.assert_allclose(found, [[50 - 103.53, 100 - 116.28, 200 - 123.675]], rtol=1e-5)
    for name in ("torchvision", "detectron2_rgb"):
        found = normalised(jnp.asarray(pixel), CONVENTIONS[name])
        want = (pixel / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(found, want, rtol=1e-5)


# Read in the sources of torchvision 0.28 and in detectron2's defaults: field -> (torchvision, detectron2).
DIFFERENCES = {
    "bgr": (False, True),
    "pixel_mean": ((123.675, 116.28, 103.53), (103.53, 116.28, 123.675)),
    "pixel_std": ((58.395, 57.12, 57.375), (1.0, 1.0, 1.0)),
    "antialias": (False, True),
    "stride_in_1x1": (False, True),
    "background_rows": (True, False),
    "background_last": (False, True),
    "round_anchors": (True, False),
    "stride_from_grid": (True, False),
    "roi_aligned": (False, True),
    "roi_samples": (2, 0),
    "level_epsilon_inside": (False, True),
    "proposals_after": ((2000, 1000), (1000, 1000)),
    "proposal_side": (1e-3, 0.0),
    "detection_side": (1e-2, 0.0),
    "sigmoid_scores": (True, False),
    "rpn_beta": (1 / 9, 0.0),
    "box_beta": (1 / 9, 0.0),
    "keypoint_box_beta": (1 / 9, 0.5),
    "rpn_samples_fixed": (False, True),
    "hard_mask_targets": (False, True),
    "integer_paste": (True, False),
    "keypoint_probability": (False, True),
    "library": ("torchvision", "detectron2"),
}


def test_the_two_libraries_differ_in_just_this():
    both = [dataclasses.asdict(CONVENTIONS[name]) for name in ("torchvision", "detectron2")]
    assert {
        name: (both[0][name], both[1][name]) for name in both[0] if both[0][name] != both[1][name]
    } == DIFFERENCES
    rgb = dataclasses.asdict(CONVENTIONS["detectron2_rgb"])
    changed = {name for name in rgb if rgb[name] != both[1][name]}
    assert changed == {"bgr", "pixel_mean", "pixel_std", "stride_in_1x1"}


def test_bad_input_is_named():
    with pytest.raises(
        ValueError,
        match="conventions 'torchvison' are unknown; nearest: torchvision; all: torchvision, d",
    ):
        build_model("maskrcnn_debug", conventions="torchvison")
    with pytest.raises(ValueError, match="nearest: detectron2"):
        conventions_named("detectron")
    with pytest.raises(
        ValueError, match="backbone 'resnet51' is unknown; choose one of resnet18, .* or vit"
    ):
        shapes_of(build_model("maskrcnn_debug", backbone="resnet51"))
    with pytest.raises(ValueError, match=r"images are \(1, 60, 96, 3\).*multiples of 32: pad them"):
        jax.eval_shape(lambda: MODEL.init(jax.random.key(0), IMAGES[:1, :60]))
