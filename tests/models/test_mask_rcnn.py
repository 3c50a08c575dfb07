"""The composed detector: parameter counts, shapes, frozen stages, conventions and options."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model, variable_shapes
from segjax.models.detection.build import mask_rcnn_options
from segjax.models.detection.conventions import CONVENTIONS, find_conventions
from segjax.models.detection.fpn import FeaturePyramid
from segjax.models.detection.heads import BoxHead
from segjax.models.detection.mask_rcnn import MaskRcnn
from segjax.models.detection.resnet import ResNet
from segjax.models.detection.rpn import AnchorGenerator, RpnHead
from segjax.models.detection.sizes import OPTIONS

MODEL = build_model("maskrcnn_debug")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


# torchvision's documentation of its weights (`num_params`), which leaves frozen norms out.
@pytest.mark.parametrize(
    "name, published",
    [
        ("maskrcnn_resnet50_fpn", 44_401_393),
        pytest.param("maskrcnn_resnet50_fpn_v2", 46_359_409, marks=pytest.mark.slow),
        ("keypointrcnn_resnet50_fpn", 59_137_258),
        pytest.param("fasterrcnn_resnet50_fpn", 41_755_286, marks=pytest.mark.slow),
        pytest.param("fasterrcnn_resnet50_fpn_v2", 43_712_278, marks=pytest.mark.slow),
    ],
)
def test_parameter_counts_equal_torchvision(name, published):
    assert count(variable_shapes(build_model(name))["params"]) == published


@pytest.mark.parametrize(
    "name, trained, norms",
    [
        # detectron2's R50-FPN has 44,396,336 with the weights and biases of its frozen norms.
        ("mask_rcnn_R_50_FPN", 44_343_216, 53_120),
        # By hand: convolutions of ResNet-101 42,394,816, pyramid 3,344,384, heads 593,935 +
        # 14,306,705 + 2,643,280.
        pytest.param("mask_rcnn_R_101_FPN", 63_283_120, 105_344, marks=pytest.mark.slow),
        # By hand: R50-FPN's 44,343,216 without its box head and predictor, 13,895,680 + 1025 x
        # (81 + 320), plus three times a box head whose predictor has one box for all classes,
        # 13,895,680 + 1025 x (81 + 4).
        ("cascade_mask_rcnn_R_50_FPN", 44_343_216 - 14_306_705 + 3 * 13_982_805, 53_120),
    ],
)
def test_parameter_counts_equal_detectron2(name, trained, norms):
    shapes = variable_shapes(build_model(name))
    assert count(shapes["params"]) == trained
    assert count(shapes["constants"]) == 2 * norms  # two statistics for each weight and bias


@pytest.mark.slow
@pytest.mark.parametrize(
    "size, width, depth, published",
    [("b", 768, 12, 111), ("l", 1024, 24, 331), ("h", 1280, 32, 662)],
)
def test_parameter_counts_equal_vitdet(size, width, depth, published):
    """ViTDet, table 5, in millions. Ours have no position of a class token; H has patches of 16."""
    params = variable_shapes(build_model(f"vitdet_vit_{size}"))["params"]
    assert abs(count(params) / 1e6 - published) < 1
    plain = 12 * width**2 + 13 * width
    tables = sorted(count(block) - plain for block in params["backbone"]["trunk"].values())
    channels = width // (12 if size == "b" else 16)
    # Relative positions of two axes, in windows of 14 and over the grid of 64.
    assert tables == [2 * 27 * channels] * (depth - 4) + [2 * 127 * channels] * 4


def test_outputs_have_their_shapes_and_are_float32():
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


def test_padding_becomes_the_mean_color_whatever_its_values(variables):
    encode = jax.jit(
        lambda images, sizes: MODEL.apply(variables, images, sizes, method="encode_image")
    )
    # This canvas is the smallest for both images, so all of it is valid.
    sizes = np.array([[64, 96], [40, 70]])
    found = encode(IMAGES, sizes)
    other = IMAGES.copy()
    other[1, 40:], other[1, :, 70:] = 7, 200
    for one, two in zip(found, encode(other, sizes), strict=True):
        np.testing.assert_array_equal(one, two)
    plain = IMAGES.astype(np.float32)
    plain[1, 40:] = plain[1, :, 70:] = MODEL.preprocessing.pixels.mean
    want = encode(plain, np.array([[64, 96], [64, 96]]))
    for one, two in zip(found, want, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4 * float(jnp.abs(two).max()))


@pytest.mark.parametrize("freeze_at, frozen", [(0, 0), (2, 3), (5, 6)])
def test_frozen_arrays_are_constants(freeze_at, frozen):
    """They keep their paths. No gradient, decay, average or optimizer state can reach them."""
    shapes = variable_shapes(build_model("maskrcnn_debug", norm="bn", freeze_at=freeze_at))
    fixed, trained = (shapes[name].get("backbone", {}) for name in ("constants", "params"))
    modules = [
        "stem",
        "stage_2_block_0",
        "stage_2_block_1",
        *(f"stage_{n}_block_0" for n in (3, 4, 5)),
    ]
    assert sorted(trained) == sorted(modules[frozen:])
    for name in modules:  # the statistics are constants in any case
        frozen_here = name not in trained
        conv = fixed[name] if name == "stem" else fixed[name]["conv_1"]
        assert sorted(conv) == ["kernel"] * frozen_here + ["norm"]
        assert sorted(conv["norm"]) == sorted(
            ["mean", "variance"] + ["bias", "scale"] * frozen_here
        )
    assert count(shapes) == count(variable_shapes(MODEL))


def test_detectron2_takes_blue_first_and_does_not_scale():
    pixel = np.array([[200, 100, 50]], np.uint8)
    found = CONVENTIONS["detectron2"].pixels.normalize(jnp.asarray(pixel))
    np.testing.assert_allclose(found, [[50 - 103.53, 100 - 116.28, 200 - 123.675]], rtol=1e-5)
    for name in ("torchvision", "detectron2_rgb"):
        found = CONVENTIONS[name].pixels.normalize(jnp.asarray(pixel))
        want = (pixel / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(found, want, rtol=1e-5)


# Read in the sources of torchvision 0.28 and in detectron2's defaults: (torchvision, detectron2).
DIFFERENCES = {
    "library": ("torchvision", "detectron2"),
    "pixels.bgr": (False, True),
    "pixels.mean": ((123.675, 116.28, 103.53), (103.53, 116.28, 123.675)),
    "pixels.std": ((58.395, 57.12, 57.375), (1.0, 1.0, 1.0)),
    "resize": ("torchvision", "pillow"),
    "stride_in_1x1": (False, True),
    "background_rows": (True, False),
    "anchors.rounded": (True, False),
    "anchors.stride_from_grid": (True, False),
    "proposals.after": ((2000, 1000), (1000, 1000)),
    "proposals.min_side": (1e-3, 0.0),
    "proposals.sigmoid_scores": (True, False),
    "roi_pooling.aligned": (False, True),
    "roi_pooling.samples": (2, 0),
    "roi_pooling.level_epsilon_inside": (False, True),
    "min_detection_side": (1e-2, 0.0),
    "losses.rpn_beta": (1 / 9, 0.0),
    "losses.box_beta": (1 / 9, 0.0),
    "losses.keypoint_box_beta": (1 / 9, 0.5),
    "losses.rpn_samples_fixed": (False, True),
    "outputs.paste": ("integer", "grid"),
    "outputs.keypoint_probability": (False, True),
}


def flatten_rules(name):
    """Returns the rules of a library by dotted name."""
    rules = dataclasses.asdict(CONVENTIONS[name])
    groups = {group: rules.pop(group) for group in list(rules) if isinstance(rules[group], dict)}
    nested = {f"{group}.{key}": x for group, rule in groups.items() for key, x in rule.items()}
    return rules | nested


def test_the_two_libraries_differ_in_these_rules_alone():
    torchvision, detectron2 = flatten_rules("torchvision"), flatten_rules("detectron2")
    different = {
        key: (torchvision[key], detectron2[key])
        for key in torchvision
        if torchvision[key] != detectron2[key]
    }
    assert different == DIFFERENCES
    rgb = flatten_rules("detectron2_rgb")
    changed = {name for name in rgb if rgb[name] != detectron2[name]}
    assert changed == {"pixels.bgr", "pixels.mean", "pixels.std", "stride_in_1x1"}


def test_a_model_has_the_rules_of_its_library_and_its_own_sizes():
    for name, rules in CONVENTIONS.items():
        model = build_model("maskrcnn_debug", conventions=name)
        assert model.library == rules.library
        assert model.preprocessing.pixels == rules.pixels
        assert model.preprocessing.resize == rules.resize
        assert model.backbone.stride_in_1x1 == rules.stride_in_1x1
        assert model.mask_head.background_rows == rules.background_rows
        assert model.anchor_generator == dataclasses.replace(
            rules.anchors, sizes=(8, 16, 32, 64, 128)
        )
        assert model.proposal_selection == dataclasses.replace(
            rules.proposals, before=(32, 32), after=(16, 16)
        )
        assert model.roi_pooling == dataclasses.replace(rules.roi_pooling, canonical_size=56.0)
        assert model.detection_selection.min_side == rules.min_detection_side
        assert (model.loss_rules, model.output_rules) == (rules.losses, rules.outputs)


def test_every_option_has_a_default_and_reaches_a_part_of_the_model():
    """Configs of runs spell out all options, whether or not the backbone has them."""
    options = mask_rcnn_options("maskrcnn_debug")
    assert options.keys() == OPTIONS.keys() and options["dtype"] == "float32"
    assert build_model("maskrcnn_debug", **options) == MODEL
    assert all(option.comment.strip() for option in OPTIONS.values())
    base = dict(backbone="vit", width=32, depth=2, heads=2, agnostic_boxes=True, stuff=2)
    # A different value for each option: those of all backbones, of ViTs, of ResNets.
    changed = dict(canvas=96, short_side=48, long_side=80, features=8, rpn_convs=2, box_convs=1)
    changed |= dict(box_fcs=1, box_width=8, mask_convs=1, mask_width=8, agnostic_masks=True)
    changed |= dict(keypoints=3, keypoint_convs=2, keypoint_width=8, head_norm="gn")
    changed |= dict(head_epsilon=1e-3, score_threshold=0.5, nms_threshold=0.25, detections=4)
    changed |= dict(candidates=9, proposals_before=(5, 4), proposals_after=(3, 2), classes=7)
    changed |= dict(canonical_size=28.0, pooling="roi_pool", dtype="bfloat16", box_stages=2)
    changed |= dict(anchor_sizes=(1, 2, 3, 4, 5), anchor_ratios=(1.0,), conventions="detectron2")
    changed |= dict(stuff=3, stuff_width=8)
    vit = dict(width=16, depth=3, heads=4, window=7, global_blocks=(1,), patch=8, positions=7)
    vit |= dict(drop_path=0.5, remat="full", scan=True, attention="chunked")
    resnet = dict(norm="bn", norm_epsilon=1e-3, freeze_at=1, pyramid_norm="gn")
    resnet |= dict(backbone="resnet18", agnostic_boxes=True)
    assert changed.keys() | vit.keys() | resnet.keys() == OPTIONS.keys()
    for start, values in ((base, changed | vit), ({}, resnet)):
        usual = build_model("maskrcnn_debug", **start)
        for name, value in values.items():
            assert build_model("maskrcnn_debug", **start | {name: value}) != usual, name


def test_parts_can_be_composed_by_hand():
    model = MaskRcnn(
        backbone=ResNet("resnet_debug"),
        pyramid=FeaturePyramid(16),
        rpn=RpnHead(),
        box_heads=(BoxHead(3, width=32, name="box_head"),),
        anchor_generator=AnchorGenerator(sizes=(8, 16, 32, 64, 128)),
    )
    shapes = variable_shapes(model)
    assert sorted(shapes["params"]) == ["backbone", "box_head", "pyramid", "rpn"]
    stages = model.replace_selection(count=3).detection_selection, model.detection_selection
    assert [stage.count for stage in stages] == [3, 100]


def test_invalid_options_raise_errors_that_name_the_alternatives():
    with pytest.raises(
        ValueError,
        match="conventions 'torchvison' are unknown; nearest: torchvision; all: torchvision, d",
    ):
        build_model("maskrcnn_debug", conventions="torchvison")
    with pytest.raises(ValueError, match="nearest: detectron2"):
        find_conventions("detectron")
    with pytest.raises(
        ValueError, match="backbone 'resnet51' is unknown; choose one of resnet18, .* or vit"
    ):
        build_model("maskrcnn_debug", backbone="resnet51")
    with pytest.raises(ValueError, match=r"no attribute \['box_stage'\]; nearest: box_stages"):
        build_model("maskrcnn_debug", box_stage=3)
    with pytest.raises(ValueError, match=r"images are \(1, 60, 96, 3\).*multiples of 32: pad them"):
        jax.eval_shape(lambda: MODEL.init(jax.random.key(0), IMAGES[:1, :60]))
