"""A classifier's arrays under the names of timm (MAE's fine-tuned files) and transformers."""

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.models.classifier import build_classifier, init_classifier
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.names import HUGGINGFACE, OFFICIAL
from segjax.weights.tables.vit import VIT
from segjax.weights.tree import CheckpointError, flatten

# timm's vision_transformer.py, and models_vit.py of facebookresearch/mae, which has fc_norm in
# place of norm.
OFFICIAL_KEYS = (
    ["cls_token", "pos_embed"]
    + [
        f"{module}.{leaf}"
        for module in ("patch_embed.proj", "norm", "head")
        for leaf in ("weight", "bias")
    ]
    + [
        f"blocks.{i}.{module}.{leaf}"
        for i in range(2)
        for module in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for leaf in ("weight", "bias")
    ]
)


def variables_of(**options):
    return drawn_variables(build_classifier("vit_debug", **options), init_classifier)


def assert_same(found, want):
    found, want = flatten(found), flatten(want)
    assert sorted(found) == sorted(want)
    for path in want:
        np.testing.assert_array_equal(found[path], want[path], err_msg=path)


def test_official_names():
    state = VIT.to_published(variables_of(), OFFICIAL)
    assert sorted(state) == sorted(OFFICIAL_KEYS)
    assert state["pos_embed"].shape == (1, 17, 32) and state["head.weight"].shape == (5, 32)
    mean = VIT.to_published(variables_of(pool="mean"), OFFICIAL)
    assert sorted(mean) == sorted(
        key.replace("norm.", "fc_norm.") if key[:5] == "norm." else key for key in OFFICIAL_KEYS
    )
    theirs = VIT.to_published(variables_of(), HUGGINGFACE)
    assert {"classifier.weight", "vit.layernorm.bias", "vit.embeddings.position_embeddings"} < set(
        theirs
    )


@pytest.mark.parametrize(
    "name, format, options",
    [
        ("a.pth", OFFICIAL, {}),
        ("b.pth", OFFICIAL, {"pool": "mean", "classes": 7}),
        ("c.safetensors", HUGGINGFACE, {"classes": 2}),
    ],
)
def test_a_file_tells_what_it_holds_and_comes_back_to_the_byte(tmp_path, name, format, options):
    variables = variables_of(**options)
    write_checkpoint(tmp_path / name, variables, format=format, metadata={})
    checkpoint = read_checkpoint(tmp_path / name)
    assert checkpoint.table is VIT and checkpoint.format == format
    size = {"width": 32, "depth": 2, "patch": 16, "canvas": 64, "classes": 5}
    assert checkpoint.size == size | options
    model, found = segjax.load(tmp_path / name)
    assert model == build_classifier("vit_debug", **options)
    assert_same(found, variables)


def test_a_frozen_encoder_and_its_statistics_become_an_ordinary_classifier(tmp_path):
    frozen = variables_of(frozen=True)
    write_checkpoint(tmp_path / "a.pth", frozen, metadata={})
    _, found = segjax.load("vit_debug", tmp_path / "a.pth")
    assert_same(found["params"]["encoder"], frozen["constants"]["encoder"])
    features = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    statistics, head = frozen["constants"]["statistics"], frozen["params"]["head"]
    standard = (features - statistics["mean"]) / np.sqrt(statistics["variance"] + 1e-6)
    want = standard @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(
        features @ found["params"]["head"]["kernel"] + found["params"]["head"]["bias"],
        want,
        atol=1e-5,
    )
    model = {"name": "vit_debug", "frozen": True}
    write_checkpoint(
        tmp_path / "a.safetensors", frozen, metadata={"model": model}
    )  # ours has a place for it
    assert_same(segjax.load(tmp_path / "a.safetensors")[1], frozen)


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.raises(
        CheckpointError, match="ViTForImageClassification has no place for params/encoder/fc_norm"
    ):
        write_checkpoint(
            tmp_path / "a.safetensors", variables_of(pool="mean"), format=HUGGINGFACE, metadata={}
        )
    write_checkpoint(tmp_path / "a.pth", variables_of(), metadata={})
    with pytest.raises(
        CheckpointError, match="holds a ViT of facebookresearch/mae's fine-tuning; expected MAE"
    ):
        segjax.load("mae_debug", tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a classifier stays on the canvas"):
        segjax.load(tmp_path / "a.pth", canvas=128)
    state = VIT.to_published(variables_of(), OFFICIAL)
    del state["blocks.1.mlp.fc1.bias"]
    expected = jax.tree.map(np.asarray, variables_of())
    with pytest.raises(CheckpointError, match="1 missing: blocks.1.mlp.fc1.bias"):
        VIT.from_published(state, expected, format=OFFICIAL, source="file")
