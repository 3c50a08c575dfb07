import json

import jax
import numpy as np
import pytest
from conftest import real_data_root
from written_run import debug_variables

from segjax.models.build import variable_shapes
from segjax.models.sam.build import build_sam
from segjax.weights.names import HUGGINGFACE, OFFICIAL
from segjax.weights.state_dict import find_state_dict
from segjax.weights.tables.sam import SAM
from segjax.weights.tree import CheckpointError, flatten

MATRIX = "shared_image_embedding.positional_embedding"
COPY = "prompt_encoder.shared_embedding.positional_embedding"


def sam_shapes(name, **options):
    return variable_shapes(build_sam(name, **options))


def drawn(name="sam_debug", **options):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: rng.standard_normal(s.shape).astype(np.float32), sam_shapes(name, **options)
    )


def assert_same(found, want):
    found, want = flatten(found), flatten(want)
    assert list(found) == list(want)
    for path in want:
        assert found[path].dtype == want[path].dtype
        np.testing.assert_array_equal(found[path], want[path], err_msg=path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name, format, manifest, entries",
    [
        ("sam_vit_b", OFFICIAL, "sam_vit_b", 314),
        ("sam_vit_l", OFFICIAL, "sam_vit_l", 482),
        ("sam_vit_h", OFFICIAL, "sam_vit_h", 594),
        ("sam_vit_b", HUGGINGFACE, "hf_sam_vit_base", 315),
    ],
)
def test_every_array_of_a_published_file_has_one_place_and_its_shape(
    name, format, manifest, entries
):
    path = real_data_root() / "reference_manifests" / f"{manifest}.json"
    if not path.is_file():
        pytest.skip(f"no {path}; set SEGJAX_DATA to the folder that holds reference_manifests")
    published = {key: tuple(shape) for key, (shape, _) in json.loads(path.read_text()).items()}
    expected = sam_shapes(name)
    assert len(published) == entries and SAM.published_shapes(expected, format) == published
    # and the other way round: arrays of those shapes (of one element in memory) become ours
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in published.items()}
    ours = SAM.from_published(state, expected, format=format, source="file")
    shape = lambda tree: {path: tuple(leaf.shape) for path, leaf in flatten(tree).items()}
    assert shape(ours) == shape(expected)
    model = build_sam(name)
    assert SAM.read_sizes(state, format) == {
        "width": model.width,
        "depth": model.depth,
        "patch": 16,
        "canvas": 1024,
    }


@pytest.mark.parametrize("format", SAM.formats)
@pytest.mark.parametrize(
    "options", [{}, dict(depth=11, global_blocks=(10,), canvas=96)], ids=["debug", "deep"]
)
def test_there_and_back_is_the_same_to_the_byte(format, options):
    variables = drawn(**options)
    state = SAM.to_published(variables, format)
    assert len(state) == len(flatten(variables)) + (format == HUGGINGFACE)
    assert SAM.find_format(state) == format
    copied = {key: np.ascontiguousarray(array) for key, array in state.items()}
    assert_same(SAM.from_published(copied, variables, format=format, source="file"), variables)


def test_layouts_are_those_of_torch():
    ours = flatten(drawn())
    state = SAM.to_published(drawn(), OFFICIAL)
    path = "params/mask_decoder/upscale_1/kernel"  # transposed convolution: [in, out, y, x]
    np.testing.assert_array_equal(
        state["mask_decoder.output_upscaling.0.weight"][3, 5, 0, 1], ours[path][3, 0, 1, 5]
    )
    # Convolution: [out, in, y, x] in torch, our inputs are ordered (y, x, in).
    path = "params/prompt_encoder/mask_conv_2/kernel"
    kernel = state["prompt_encoder.mask_downscaling.3.weight"]
    np.testing.assert_array_equal(kernel[7, 2, 1, 0], ours[path][(1 * 2 + 0) * 4 + 2, 7])
    path = "params/image_encoder/trunk/block_1/qkv/kernel"
    np.testing.assert_array_equal(
        state["image_encoder.blocks.1.attn.qkv.weight"][40, 3], ours[path][3, 40]
    )
    path = "params/image_encoder/trunk/block_1/rel_pos_w"
    np.testing.assert_array_equal(state["image_encoder.blocks.1.attn.rel_pos_w"], ours[path])
    kinds = ["background", "foreground", "top_left", "bottom_right"]
    for n, kind in enumerate(kinds):
        key = f"prompt_encoder.point_embeddings.{n}.weight"
        np.testing.assert_array_equal(state[key], ours[f"params/prompt_encoder/{kind}"][None])


def test_what_differs_is_counted_listed_and_said_in_the_names_of_the_file():
    variables = debug_variables()
    state = SAM.to_published(variables, OFFICIAL)
    del state["mask_decoder.iou_token.weight"]
    state["image_encoder.extra"] = np.zeros(3, np.float32)
    state["image_encoder.neck.0.weight"] = np.zeros((1, 2, 3, 4), np.float32)
    with pytest.raises(CheckpointError) as error:
        SAM.from_published(
            state, variables, format=OFFICIAL, source="file x", hint="; it is of another size"
        )
    said = str(error.value)
    assert said.startswith("file x (segment-anything) is of another architecture: ")
    assert "1 missing: mask_decoder.iou_token.weight (1, 32)" in said
    assert "1 unexpected: image_encoder.extra (3,)" in said
    assert (
        "1 misshapen: image_encoder.neck.0.weight is (1, 2, 3, 4), expected (32, 32, 1, 1)" in said
    )
    assert said.endswith("it is of another size")


def test_arrays_of_whole_numbers_are_refused():
    variables = debug_variables()
    state = SAM.to_published(variables, OFFICIAL)
    state["image_encoder.neck.1.bias"] = state["image_encoder.neck.1.bias"].astype(np.int8)
    with pytest.raises(
        CheckpointError, match=r"not floating-point: image_encoder.neck.1.bias \(int8\)"
    ):
        SAM.from_published(state, variables, format=OFFICIAL, source="file")


@pytest.mark.parametrize("absent", [MATRIX, COPY])
def test_transformers_may_leave_out_one_of_the_two_copies_but_not_let_them_differ(absent):
    variables = drawn()
    state = SAM.to_published(variables, HUGGINGFACE)
    without = {key: array for key, array in state.items() if key != absent}
    assert_same(
        SAM.from_published(without, variables, format=HUGGINGFACE, source="file"), variables
    )
    with pytest.raises(CheckpointError, match="the same matrix and differ"):
        SAM.from_published(
            state | {absent: state[MATRIX] + 1}, variables, format=HUGGINGFACE, source="file"
        )


def test_an_array_that_sam_does_not_have_has_no_name():
    with pytest.raises(KeyError, match="not an array of SAM"):
        SAM.published_keys("params/image_encoder/trunk/block_x/qkv/kernel", OFFICIAL)
    assert SAM.find_format({"backbone.weight": 0}) is None and SAM.read_sizes({}, OFFICIAL) == {}


def test_wrappers_are_opened_and_common_prefixes_dropped():
    state = {"image_encoder.pos_embed": np.ones(2), "mask_decoder.iou_token.weight": np.ones(1)}
    wrapped = {"epoch": 3, "model": {f"module.model.{key}": array for key, array in state.items()}}
    assert find_state_dict(wrapped, source="file").keys() == state.keys()
    assert find_state_dict(state, source="file") == state
    mixed = {f"module.{key}": array for key, array in state.items()} | {"head.weight": np.ones(1)}
    assert (
        find_state_dict(mixed, source="file").keys() == mixed.keys()
    )  # not common to all: kept, for the check to name


@pytest.mark.parametrize(
    "content, said",
    [
        (np.ones(3), r"file holds an array of shape \(3,\); expected a state dict"),
        ({}, "file holds an empty mapping"),
        (
            {"optimizer": {"lr": 1}, "epoch": 2},
            "more than a state dict: 'optimizer': a mapping of 1 .'lr'., 'epoch'",
        ),
        ({3: np.ones(1)}, "an int as key: an array of shape"),
    ],
)
def test_what_is_no_state_dict_is_said(content, said):
    with pytest.raises(CheckpointError, match=said):
        find_state_dict(content, source="file")
