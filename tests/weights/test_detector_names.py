"""A detector's arrays under the names of torchvision and detectron2, both ways, strictly."""

import functools

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model
from segjax.weights.tables.detectron2 import DETECTRON2_DETECTORS
from segjax.weights.tables.torchvision import TORCHVISION_DETECTORS, TORCHVISION_RESNETS
from segjax.weights.tree import CheckpointError, flatten, match_collections

SECOND = dict(norm="bn", pyramid_norm="bn", head_norm="bn", rpn_convs=2, box_convs=4, box_fcs=1)
VITDET = dict(backbone="vit", width=32, depth=2, heads=2, window=2, global_blocks=(1,), positions=3)
VITDET |= dict(head_norm="ln", rpn_convs=2, box_convs=2, box_fcs=1)
CASCADE = dict(box_stages=3, agnostic_boxes=True)
MODELS = {
    "torchvision": {},
    "torchvision, second generation": SECOND,
    "torchvision, frozen": dict(freeze_at=2),
    "detectron2": dict(conventions="detectron2"),
    "detectron2, group norms": dict(
        conventions="detectron2", norm="gn", pyramid_norm="gn", head_norm="gn"
    ),
    "detectron2, ViTDet": dict(conventions="detectron2_rgb") | VITDET,
    "detectron2, cascade": dict(conventions="detectron2") | CASCADE,
    "detectron2, ViTDet, cascade": dict(conventions="detectron2_rgb") | VITDET | CASCADE,
}


@functools.cache
def made(kind):
    """Returns (table, format, variables, state dict)."""
    model = build_model("maskrcnn_debug", **MODELS[kind])
    table = TORCHVISION_DETECTORS if model.library == "torchvision" else DETECTRON2_DETECTORS
    variables = drawn_variables(model, init_model)
    return table, model.library, variables, table.to_published(variables, model.library)


def assert_same(found, want):
    found, want = flatten(found), flatten(want)
    assert sorted(found) == sorted(want)
    for path in want:
        np.testing.assert_array_equal(found[path], want[path], err_msg=path)


@pytest.mark.parametrize("kind", MODELS)
def test_a_round_trip_keeps_every_byte(kind):
    table, format, variables, state = made(kind)
    assert table.matches(variables) and table.find_format(state) == format
    assert len(state) == len(flatten(variables)), "every array has a name of its own"
    assert_same(table.from_published(state, variables, format=format, source="file"), variables)


def test_names_and_layouts_of_torchvision():
    _, _, variables, state = made("torchvision")
    ours = flatten(variables)
    body = "backbone.body."
    for key in (
        "conv1.weight",
        "bn1.running_var",
        "layer1.1.conv3.weight",
        "layer4.0.downsample.1.bias",
    ):
        assert body + key in state
    stem = ours["params/backbone/stem/kernel"]
    assert state[body + "conv1.weight"][3, 2, 5, 6] == stem[5, 6, 2, 3]
    shortcut = ours["params/backbone/stage_3_block_0/shortcut/kernel"]
    assert state[body + "layer2.0.downsample.0.weight"][9, 4, 0, 0] == shortcut[0, 0, 4, 9]
    # Flattened maps are ordered by channel, row, column in PyTorch, by row, column, channel here.
    fc, kernel = state["roi_heads.box_head.fc6.weight"], ours["params/box_head/fc_0/kernel"]
    assert fc.shape == (32, 16 * 49)
    channel, row, column = 5, 2, 6
    np.testing.assert_array_equal(
        fc[:, channel * 49 + row * 7 + column], kernel[(row * 7 + column) * 16 + channel]
    )
    deconvolution = state["roi_heads.keypoint_predictor.kps_score_lowres.weight"]
    assert deconvolution[3, 1, 0, 2] == ours["params/keypoint_head/upscale/kernel"][3, 0, 2, 1]
    assert state["roi_heads.mask_predictor.mask_fcn_logits.weight"].shape == (4, 16, 1, 1), (
        "the background's too"
    )
    assert "backbone.fpn.layer_blocks.3.0.bias" in state and "rpn.head.conv.0.0.weight" in state


def test_the_second_generation_has_norms_and_one_fully_connected_layer():
    state = made("torchvision, second generation")[3]
    assert state["roi_heads.box_head.5.weight"].shape == (32, 16 * 49)
    for key in (
        "roi_heads.box_head.3.1.running_mean",
        "backbone.fpn.inner_blocks.0.1.weight",
        "rpn.head.conv.1.0.bias",
    ):
        assert key in state
    assert "roi_heads.mask_head.1.0.bias" not in state


def test_older_names_and_counters_are_read():
    table, format, variables, state = made("torchvision")
    older = {}
    for key, array in state.items():
        if "_blocks." in key:
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for n in range(2):
            key = key.replace(f"mask_head.{n}.0.", f"mask_head.mask_fcn{n + 1}.")
        older[key] = array
    assert {"backbone.fpn.inner_blocks.0.weight", "roi_heads.mask_head.mask_fcn2.bias"} < set(older)
    older["backbone.body.bn1.num_batches_tracked"] = np.array(7)
    assert_same(table.from_published(older, variables, format=format, source="file"), variables)


def test_names_and_layouts_of_detectron2():
    _, _, variables, state = made("detectron2")
    ours = flatten(variables)
    bottom = "backbone.bottom_up."
    for key in (
        bottom + "stem.conv1.norm.running_mean",
        bottom + "res2.1.conv3.norm.weight",
        bottom + "res5.0.shortcut.weight",
        "backbone.fpn_lateral2.weight",
        "backbone.fpn_output5.bias",
        "proposal_generator.rpn_head.conv.weight",
        "proposal_generator.rpn_head.anchor_deltas.bias",
        "roi_heads.box_head.fc2.weight",
        "roi_heads.mask_head.mask_fcn1.weight",
        "roi_heads.mask_head.predictor.bias",
        "roi_heads.keypoint_head.conv_fcn1.bias",
    ):
        assert key in state
    # detectron2's background is the last class, ours the first. Boxes and masks have none.
    scores = ours["params/box_head/scores/kernel"]
    np.testing.assert_array_equal(
        state["roi_heads.box_predictor.cls_score.weight"], scores.T[[1, 2, 3, 0]]
    )
    bias = ours["params/box_head/scores/bias"]
    np.testing.assert_array_equal(
        state["roi_heads.box_predictor.cls_score.bias"], bias[[1, 2, 3, 0]]
    )
    assert state["roi_heads.box_predictor.bbox_pred.weight"].shape == (12, 32)
    assert state["roi_heads.mask_head.predictor.weight"].shape == (3, 16, 1, 1)


def test_names_of_vitdet_and_its_unused_position():
    _, _, variables, state = made("detectron2, ViTDet")
    positions = state["backbone.net.pos_embed"]
    assert positions.shape == (1, 10, 32) and not positions[0, 0].any()
    np.testing.assert_array_equal(
        positions[0, 1 + 5], variables["params"]["backbone"]["pos_embed"][0, 1, 2]
    )
    # P2: upscale, norm, (GELU), upscale, 1x1, 3x3. P5: (max pooling), 1x1, 3x3.
    want = (
        {f"2.{k}" for k in (0, 1, 3, 4, 5)}
        | {f"3.{k}" for k in (0, 1, 2)}
        | {f"4.{k}" for k in (0, 1)}
    )
    want |= {f"5.{k}" for k in (1, 2)}
    assert {
        ".".join(key.removeprefix("backbone.simfp_").split(".")[:2])
        for key in state
        if "simfp" in key
    } == want
    for key in (
        "backbone.net.blocks.1.attn.rel_pos_w",
        "backbone.net.blocks.0.mlp.fc2.bias",
        "backbone.simfp_2.4.norm.weight",
        "proposal_generator.rpn_head.conv.conv1.weight",
        "roi_heads.box_head.conv2.norm.bias",
        "roi_heads.box_head.fc1.weight",
    ):
        assert key in state


def test_names_of_a_cascade():
    table, format, variables, state = made("detectron2, cascade")
    ours = flatten(variables)
    layers = (
        "box_head.{}.fc1",
        "box_head.{}.fc2",
        "box_predictor.{}.cls_score",
        "box_predictor.{}.bbox_pred",
    )
    keys = {f"roi_heads.{layer.format(stage)}.weight" for layer in layers for stage in range(3)}
    assert {key for key in state if ".box_" in key and key.endswith("weight")} == keys
    for stage in range(3):
        scores = ours[f"params/box_head_{stage}/scores/bias"]
        np.testing.assert_array_equal(
            state[f"roi_heads.box_predictor.{stage}.cls_score.bias"], scores[[1, 2, 3, 0]]
        )
        assert state[f"roi_heads.box_predictor.{stage}.bbox_pred.weight"].shape == (4, 32)
    norms = made("detectron2, ViTDet, cascade")[3]
    assert {"roi_heads.box_head.2.conv1.norm.weight", "roi_heads.box_head.0.fc1.bias"} < set(norms)
    with pytest.raises(
        CheckpointError,
        match="24 missing: .*box_head.0.fc1.bias .*; 8 unexpected: .*box_head.fc1.bias ",
    ):
        table.from_published(made("detectron2")[3], variables, format=format, source="file")
    with pytest.raises(CheckpointError, match="torchvision has no place for params/box_head_0/"):
        TORCHVISION_DETECTORS.to_published(variables, "torchvision")


def test_arrays_that_detectron2_computes_are_ignored():
    table, format, variables, state = made("detectron2")
    more = {"pixel_mean": np.zeros((3, 1, 1), np.float32)}
    more |= {
        f"proposal_generator.anchor_generator.cell_anchors.{n}": np.zeros((3, 4), np.float32)
        for n in range(5)
    }
    assert_same(
        table.from_published(state | more, variables, format=format, source="file"), variables
    )


def test_differences_are_listed():
    table, format, variables, state = made("torchvision")
    missing = "backbone.body.layer3.0.conv2.weight"
    state = {key: array for key, array in state.items() if key != missing} | {
        "roi_heads.extra.weight": np.zeros(3, "f4")
    }
    with pytest.raises(CheckpointError) as error:
        table.from_published(state, variables, format=format, source="file")
    said = str(error.value)
    assert said.startswith(
        "file (torchvision) is of another architecture: 1 missing: "
        "backbone.body.layer3.0.conv2.weight"
    )
    assert "1 unexpected: roi_heads.extra.weight (3,)" in said


def test_a_classifier_loads_as_a_backbone():
    """Arrays are frozen as in the detector."""
    variables = made("torchvision")[2]
    backbone = {name: {"backbone": tree["backbone"]} for name, tree in variables.items()}
    state = TORCHVISION_RESNETS.to_published(backbone, "torchvision") | {
        "fc.bias": np.zeros(1000, np.float32)
    }
    assert "layer1.0.downsample.0.weight" in state and TORCHVISION_RESNETS.find_format(state)
    frozen = made("torchvision, frozen")[2]
    expected = {name: {"backbone": tree["backbone"]} for name, tree in frozen.items()}
    found, rest = TORCHVISION_RESNETS.load_part(
        state, expected, format="torchvision", source="file"
    )
    assert rest == ["fc.bias"]
    assert_same(found, match_collections(backbone, expected))
    kernel = found["constants"]["backbone"]["stem"]["kernel"]
    np.testing.assert_array_equal(kernel, variables["params"]["backbone"]["stem"]["kernel"])
