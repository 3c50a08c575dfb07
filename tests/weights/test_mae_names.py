"""MAE's arrays under the names of the paper's code and of transformers, both ways, strictly."""

import json

import numpy as np
import pytest
from conftest import real_data_root
from golden.drawn_weights import drawn_variables

from segjax.models.build import variable_shapes
from segjax.models.mae import build_mae, init_mae
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.names import HUGGINGFACE, OFFICIAL
from segjax.weights.tables.mae import MAE
from segjax.weights.tree import CheckpointError, flatten

MODEL = build_mae("mae_debug")


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(MODEL, init_mae)


def state_of(variables, format):
    return MAE.to_published(variables, format, canvas=MODEL.canvas)


def restored(state, variables, format):
    return MAE.from_published(state, variables, format=format, source="file")


def assert_same(found, want):
    found, want = flatten(found), flatten(want)
    assert sorted(found) == sorted(want)
    for path in want:
        np.testing.assert_array_equal(found[path], want[path], err_msg=path)


@pytest.mark.real_data
def test_every_array_of_transformers_model_has_one_place_and_its_shape():
    path = real_data_root() / "reference_manifests" / "hf_vit_mae_base.json"
    if not path.is_file():
        pytest.skip(f"no {path}; set SEGJAX_DATA to the folder that holds reference_manifests")
    published = {key: tuple(shape) for key, (shape, _) in json.loads(path.read_text()).items()}
    model = build_mae("mae_vit_b")
    expected = variable_shapes(model)
    assert len(published) == 334
    assert MAE.published_shapes(expected, HUGGINGFACE, canvas=224) == published


# The names of facebookresearch/mae's models_mae.py; its files hold {"model": {...}} of these.
OFFICIAL_KEYS = (
    ["cls_token", "mask_token", "pos_embed", "decoder_pos_embed"]
    + [
        f"{module}.{leaf}"
        for module in ("patch_embed.proj", "norm", "decoder_embed", "decoder_norm", "decoder_pred")
        for leaf in ("weight", "bias")
    ]
    + [
        f"{blocks}.{i}.{module}.{leaf}"
        for blocks, depth in (("blocks", 2), ("decoder_blocks", 2))
        for i in range(depth)
        for module in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for leaf in ("weight", "bias")
    ]
)


def test_official_names(variables):
    state = state_of(variables, OFFICIAL)
    assert sorted(state) == sorted(OFFICIAL_KEYS)
    assert state["cls_token"].shape == (1, 1, 32) and state["decoder_pos_embed"].shape == (
        1,
        17,
        16,
    )
    ours = flatten(variables)
    qkv = ours["params/encoder/trunk/block_1/qkv/kernel"]
    np.testing.assert_array_equal(state["blocks.1.attn.qkv.weight"][40, 3], qkv[3, 40])
    theirs = state_of(variables, HUGGINGFACE)
    np.testing.assert_array_equal(
        theirs["vit.layers.1.attention.k_proj.weight"][8, 3], qkv[3, 32 + 8]
    )


@pytest.mark.parametrize("format", MAE.formats)
def test_there_and_back_is_the_same_to_the_byte(format, variables):
    state = state_of(variables, format)
    assert MAE.find_format(state) == format and MAE.matches(variables)
    assert MAE.read_sizes(state, format) == {"width": 32, "depth": 2, "patch": 16, "canvas": 64}
    assert_same(restored(state, variables, format), variables)


def test_the_published_spelling_of_transformers_is_read_too(variables):
    """Covers the keys of transformers 4 and of its hub, such as `attention.attention.query`."""
    older = {}
    for key, array in state_of(variables, HUGGINGFACE).items():
        key = key.replace("vit.layers.", "vit.encoder.layer.").replace(
            ".mlp.fc1.", ".intermediate.dense."
        )
        key = key.replace(".mlp.fc2.", ".output.dense.").replace(
            ".attention.o_proj.", ".attention.output.dense."
        )
        for short, long in (("q", "query"), ("k", "key"), ("v", "value")):
            key = key.replace(f".attention.{short}_proj.", f".attention.attention.{long}.")
        older[key] = array
    assert "decoder.decoder_layers.1.attention.attention.query.bias" in older
    assert MAE.read_sizes(older, HUGGINGFACE)["depth"] == 2
    assert_same(restored(older, variables, HUGGINGFACE), variables)


@pytest.mark.parametrize(
    "name, format", [("a.pth", OFFICIAL), ("a.safetensors", HUGGINGFACE), ("b.safetensors", None)]
)
def test_files_tell_that_they_are_a_mae(tmp_path, variables, name, format):
    write_checkpoint(tmp_path / name, variables, format=format, metadata={}, canvas=MODEL.canvas)
    checkpoint = read_checkpoint(tmp_path / name)
    assert checkpoint.table is (MAE if format else None)
    assert_same(checkpoint.variables(variables), variables)


def test_what_differs_is_listed(variables):
    state = state_of(variables, OFFICIAL)
    state["head.weight"] = np.zeros((10, 32), np.float32)
    del state["pos_embed"], state["mask_token"]
    with pytest.raises(CheckpointError) as error:
        restored(state, variables, OFFICIAL)
    said = str(error.value)
    assert said.startswith("file (facebookresearch/mae) is of another architecture: 2 missing: ")
    assert "mask_token (1, 1, 16)" in said and "1 unexpected: head.weight (10, 32)" in said


@pytest.mark.parametrize("key", ["pos_embed", "decoder_pos_embed"])
def test_a_table_of_other_positions_is_refused(variables, key):
    state = state_of(variables, OFFICIAL)
    half = state[key].shape[-1] // 2
    swapped = np.concatenate(
        [state[key][..., half:], state[key][..., :half]], axis=-1
    )  # the row before the column
    with pytest.raises(CheckpointError, match=f"file holds another {key} than MAE computes"):
        restored(state | {key: swapped}, variables, OFFICIAL)
    halved = {name: array.astype(np.float16) for name, array in state.items()}
    assert restored(halved, variables, OFFICIAL)["params"]["encoder"]["norm"]["scale"].shape == (
        32,
    )


def test_writing_needs_the_canvas(variables):
    with pytest.raises(ValueError, match="say for which canvas"):
        MAE.to_published(variables, OFFICIAL)
