"""Files of DINO, DINOv2, DINOv3 and timm: every array has one place, versions are recognized."""

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.models.dino.family import build_dino, init_dino
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.safetensors import read_arrays, write_arrays
from segjax.weights.tables.dino import DINO, DINO_V3
from segjax.weights.tree import CheckpointError, flatten

SMALL = dict(width=128, heads=2, depth=2)
ENTRIES = [
    ("dinov2_vit_s_14", DINO, 175),
    ("dinov2_vit_l_14", DINO, 343),
    ("dinov2_vit_g_14", DINO, 567),
    ("dinov2_vit_s_14_reg4", DINO, 176),
    ("dino_vit_b_8", DINO, 150),
]


@pytest.mark.parametrize("name, table, entries", ENTRIES)
def test_published_files_have_that_many_arrays(name, table, entries):
    model = build_dino(name)
    shapes = table.published_shapes(
        jax.eval_shape(lambda: init_dino(model, jax.random.key(0))), "official"
    )
    assert len(shapes) == entries
    side = model.canvas // model.patch
    assert shapes["pos_embed"] == (1, 1 + side**2, model.width)
    if model.gated:
        assert shapes["blocks.0.mlp.w12.weight"] == (8192, 1536)


def draw(name, **options):
    model = build_dino(name, **SMALL, **options)
    variables = drawn_variables(model, init_dino)
    if model.position_rule == "rotary":
        for block in variables["params"]["vit"]["trunk"].values():
            block["qkv"]["bias"][128:256] = 0
    return model, variables


@pytest.mark.parametrize("format", ["official", "huggingface"])
@pytest.mark.parametrize(
    "name", ["dinov2_vit_s_14", "dinov2_vit_g_14", "dinov3_vit_s_16", "dinov3_vit_s_plus_16"]
)
def test_files_come_back(name, format, tmp_path):
    model, variables = draw(name, canvas=64 if "v3" in name else 70)
    write_checkpoint(tmp_path / "x.safetensors", variables, format=format, metadata={})
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.format == format
    read, ours = flatten(checkpoint.variables(variables)), flatten(variables)
    for path, array in ours.items():
        if "periods" not in path or format == "official":  # transformers computes periods
            np.testing.assert_array_equal(read[path], array)


def test_a_mask_of_biases_is_applied(tmp_path):
    model, variables = draw("dinov3_vit_s_16", canvas=64)
    state = DINO_V3.to_published(variables, "official")
    assert not state["blocks.0.attn.qkv.bias_mask"][128:256].any()
    for key in [key for key in state if key.endswith("qkv.bias")]:
        state[key] = state[key].copy()
        state[key][128:256] = 7
        state[f"{key}_mask"][128:256] = np.nan
    state["local_cls_norm.weight"] = np.ones(128, np.float32)
    write_arrays(tmp_path / "x.safetensors", state, {})
    read = read_checkpoint(tmp_path / "x.safetensors").variables(variables)
    for path, array in flatten(variables).items():
        np.testing.assert_array_equal(flatten(read)[path], array)


def test_files_of_timm(tmp_path):
    model = build_dino("dinov2_vit_s_14_reg4", canvas=70)
    variables = drawn_variables(model, init_dino)
    state = DINO.to_published(variables, "official")
    positions = state.pop("pos_embed")
    state["cls_token"] = state["cls_token"] + positions[:, :1]
    state["pos_embed"] = positions[:, 1:]
    state["reg_token"] = state.pop("register_tokens")
    del state["mask_token"]
    write_arrays(tmp_path / "timm.safetensors", state, {})
    read, arrays = segjax.load(tmp_path / "timm.safetensors")
    assert (read.canvas, read.registers, read.position_rule) == (70, 4, "antialias")
    images = np.random.default_rng(0).integers(0, 256, (1, 70, 84, 3), np.uint8)
    np.testing.assert_allclose(
        read.apply(arrays, images), model.apply(variables, images), atol=2e-5
    )


@pytest.mark.parametrize(
    "name, rule",
    [("dino_vit_s_16", "offset"), ("dinov2_vit_s_14", "offset")],
)
def test_versions_and_a_mae_are_told_apart(name, rule, tmp_path):
    model = build_dino(name, canvas=7 * build_dino(name).patch)
    variables = drawn_variables(model, init_dino)
    write_checkpoint(tmp_path / "x.pth", variables, metadata={})
    read, _ = segjax.load(tmp_path / "x.pth")
    assert (read.width, read.patch, read.canvas) == (384, model.patch, model.canvas)
    assert read.position_rule == rule
    # With a class token without position, the same arrays are a MAE's encoder
    state = dict(read_checkpoint(tmp_path / "x.pth").arrays)
    state["pos_embed"] = state["pos_embed"].copy()
    state["pos_embed"][:, 0] = 0
    write_arrays(tmp_path / "y.safetensors", state, {})
    table = read_checkpoint(tmp_path / "y.safetensors").table
    assert table.model == ("MAE" if name == "dino_vit_s_16" else "DINO")


def test_what_transformers_cannot_hold(tmp_path):
    model, variables = draw("dinov3_vit_s_16", canvas=64)
    variables["params"]["vit"]["trunk"]["block_0"]["qkv"]["bias"][130] = 1
    with pytest.raises(CheckpointError, match="k_proj.bias is not 0"):
        write_checkpoint(tmp_path / "x.safetensors", variables, format="huggingface", metadata={})
    model, variables = draw("dino_vit_s_16", canvas=64)
    with pytest.raises(CheckpointError, match="write the official format"):
        write_checkpoint(tmp_path / "x.safetensors", variables, format="huggingface", metadata={})
    write_checkpoint(tmp_path / "x.safetensors", variables, format="official", metadata={})
    assert "blocks.1.attn.qkv.weight" in read_arrays(tmp_path / "x.safetensors")[0]
