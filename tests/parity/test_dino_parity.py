"""Compares DINO, DINOv2 and DINOv3 with transformers, and files both ways.

pip install .[test,parity]
pytest -m parity tests/parity/test_dino_parity.py
"""

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.inference.loading import load_with_config
from segjax.models.attention.rotary import make_periods
from segjax.models.dino.family import build_dino, init_dino
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.tree import flatten

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5  # of the largest magnitude of the reference
SMALL = dict(width=128, heads=2, depth=2)
V2 = SMALL | dict(canvas=70, patch=14, layer_scale=1.0)
V3 = SMALL | dict(canvas=64, patch=16)
GATED_V2 = dict(gated=True, mlp_ratio=344 / 128)  # 344: transformers' rounding of 2/3 of 512
MODELS = {
    "dinov2": ("dinov2_vit_s_14", V2 | dict(position_rule="size")),
    "dinov2_gated": ("dinov2_vit_g_14", V2 | dict(position_rule="size") | GATED_V2),
    "dinov2_reg4": ("dinov2_vit_s_14_reg4", V2),
    "dinov3": ("dinov3_vit_s_16", V3),
    "dinov3_gated": ("dinov3_vit_s_plus_16", V3),
}


def make_reference(model):
    """The model of transformers with these sizes."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(
        hidden_size=model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=model.heads,
        image_size=model.canvas,
        patch_size=model.patch,
        layer_norm_eps=model.epsilon,
        attn_implementation="eager",
    )
    if model.position_rule == "rotary":
        config = transformers.DINOv3ViTConfig(
            **sizes,
            intermediate_size=4 * model.width,
            num_register_tokens=model.registers,
            use_gated_mlp=model.gated,
            hidden_act="silu" if model.gated else "gelu",
        )
        return transformers.DINOv3ViTModel(config).eval()
    kind = "WithRegisters" if model.registers else ""
    config = getattr(transformers, f"Dinov2{kind}Config")(**sizes, use_swiglu_ffn=model.gated)
    return getattr(transformers, f"Dinov2{kind}Model")(config).eval()


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_files_both_ways(name, tmp_path, record_property):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    size, options = MODELS[name]
    model = build_dino(size, **options)
    variables = drawn_variables(model, init_dino)
    if model.position_rule == "rotary":
        fit_v3(variables, model)
    # Ours -> transformers' file -> their model
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, variables, format="huggingface", metadata={})
    theirs = make_reference(model)
    state = load_file(path)
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all("inv_freq" in key for key in missing)
    # Their folder -> ours
    theirs.save_pretrained(tmp_path / "again")
    checkpoint = read_checkpoint(tmp_path / "again" / "model.safetensors")
    read, ours = flatten(checkpoint.variables(variables)), flatten(variables)
    assert read.keys() == ours.keys()
    for path, array in ours.items():
        np.testing.assert_allclose(read[path], array, atol=1e-6 if "periods" in path else 0)

    worst = 0.0
    rng = np.random.default_rng(0)
    patch = model.patch
    for grid in (model.grid, (3, 7)):
        images = rng.integers(0, 256, (2, grid[0] * patch, grid[1] * patch, 3), np.uint8)
        pixels = (images / 255 - np.array(model.mean)) / np.array(model.std)
        with torch.no_grad():
            wanted = theirs(torch.tensor(pixels.transpose(0, 3, 1, 2)).float())
        wanted = wanted.last_hidden_state.numpy()
        mine = np.asarray(model.apply(variables, images))
        worst = max(worst, float(abs(mine - wanted).max() / abs(wanted).max()))
    record_property("error", worst)
    assert worst < TOLERANCE


def fit_v3(variables, model):
    """DINOv3 has no bias of keys, and transformers computes the periods."""
    variables["constants"]["vit"]["periods"] = make_periods(model.width // model.heads)
    for block in variables["params"]["vit"]["trunk"].values():
        bias = np.array(block["qkv"]["bias"])
        bias[model.width : 2 * model.width] = 0
        block["qkv"]["bias"] = bias


def test_dino_of_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=224,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    theirs = transformers.ViTModel(config).eval()
    with torch.no_grad():
        theirs.embeddings.position_embeddings.normal_(0, 0.02)
    theirs.save_pretrained(tmp_path)
    model, variables, _ = load_with_config(tmp_path)
    assert model.position_rule == "size" and model.canvas == 224 and model.registers == 0
    images = np.random.default_rng(0).integers(0, 256, (1, 112, 160, 3), np.uint8)
    pixels = (images / 255 - np.array(model.mean)) / np.array(model.std)
    with torch.no_grad():
        wanted = theirs(
            torch.tensor(pixels.transpose(0, 3, 1, 2)).float(), interpolate_pos_encoding=True
        ).last_hidden_state.numpy()
    mine = np.asarray(model.apply(variables, images))
    assert abs(mine - wanted).max() / abs(wanted).max() < TOLERANCE


def test_facebooks_files_are_told_from_a_mae(tmp_path):
    torch = pytest.importorskip("torch")
    model = build_dino("dino_vit_s_16", depth=12)
    variables = drawn_variables(model, init_dino)
    path = tmp_path / "dino_deitsmall16_pretrain.pth"
    write_checkpoint(path, variables, format="official", metadata={})
    state = {key: torch.as_tensor(x) for key, x in torch.load(path).items()}
    full = {
        "teacher": {f"backbone.{key}": x for key, x in state.items()}
        | {"head.mlp.0.weight": torch.zeros(2, 2)},
        "student": {f"module.backbone.{key}": x + 1 for key, x in state.items()},
        "epoch": 100,
    }
    torch.save(full, tmp_path / "full.pth")
    for file in (path, tmp_path / "full.pth"):
        read, arrays = segjax.load(file)
        assert (read.patch, read.width, read.position_rule) == (16, 384, "offset")
        for key, array in flatten(variables).items():
            np.testing.assert_array_equal(flatten(arrays)[key], array)
