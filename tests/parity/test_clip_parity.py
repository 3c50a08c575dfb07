"""Compares CLIP with transformers' CLIPModel and with archives of torch.jit.

pip install .[test,parity]
pytest -m parity tests/parity/test_clip_parity.py
"""

import json

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.models.clip.family import build_clip, init_clip
from segjax.weights.checkpoint import write_checkpoint
from segjax.weights.tree import flatten

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5  # of the largest magnitude of the reference


def reference_config(model, activation):
    transformers = pytest.importorskip("transformers")
    text = dict(
        hidden_size=model.text_width,
        intermediate_size=4 * model.text_width,
        num_hidden_layers=model.text_depth,
        num_attention_heads=model.text_heads,
        vocab_size=model.vocabulary,
        max_position_embeddings=model.context,
        bos_token_id=model.vocabulary - 2,
        eos_token_id=model.vocabulary - 1,
    )
    vision = dict(
        hidden_size=model.width,
        intermediate_size=4 * model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=model.heads,
        patch_size=model.patch,
        image_size=model.canvas,
    )
    shared = dict(hidden_act=activation, projection_dim=model.embedding)
    return transformers.CLIPConfig.from_dict(
        dict(
            projection_dim=model.embedding, text_config=text | shared, vision_config=vision | shared
        )
    )


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("name", ["clip_debug", "clip_tiny"])
def test_both_towers_and_files_both_ways(name, activation, tmp_path, record_property):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = build_clip(name, activation=activation)
    variables = drawn_variables(model, init_clip)
    # Ours -> transformers' file -> their model
    config = reference_config(model, activation)
    write_checkpoint(tmp_path / "model.safetensors", variables, format="huggingface", metadata={})
    config.save_pretrained(tmp_path)
    theirs = transformers.CLIPModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    # Their folder -> ours
    theirs.save_pretrained(tmp_path / "again")
    clip = segjax.Clip.load(tmp_path / "again")
    assert clip.model.activation == activation
    read, ours = flatten(clip.variables), flatten(variables)
    assert all(np.array_equal(read[path], ours[path]) for path in ours)

    rng = np.random.default_rng(0)
    ids = np.zeros((5, model.context), np.int32)
    for row in ids:
        length = rng.integers(3, model.context)
        row[:length] = [62, *rng.integers(1, 60, length - 2), 63]
    images = rng.integers(0, 256, (3, model.canvas, model.canvas, 3), np.uint8)
    pixels = (images / 255 - np.array(model.mean)) / np.array(model.std)
    with torch.no_grad():
        out = theirs(
            input_ids=torch.tensor(ids).long(),
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)).float(),
        )
    for mine, wanted in (
        (clip.encode_text(ids), out.text_embeds),
        (clip.encode_image(list(images)), out.image_embeds),
    ):
        difference = float(np.abs(mine - wanted.numpy()).max())
        record_property("difference", difference)
        assert difference <= TOLERANCE
    logits = clip.scale * clip.encode_text(ids) @ clip.encode_image(list(images)).T
    np.testing.assert_allclose(logits, out.logits_per_text.numpy(), rtol=1e-4, atol=1e-4)


def test_an_archive_of_torch_jit(tmp_path):
    """Reads a traced module whose attributes have OpenAI's names."""
    torch = pytest.importorskip("torch")
    from segjax.weights.tables.clip import OPENAI

    model = build_clip("clip_debug")
    variables = drawn_variables(model, init_clip)
    state = OPENAI.to_published(variables, "official")

    class QuickGELU(torch.nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.702 * x)

    root = torch.nn.Module()
    for key, array in state.items():
        *parents, name = key.split(".")
        node = root
        for parent in parents:
            if not hasattr(node, parent):
                node.add_module(parent, torch.nn.Module())
            node = getattr(node, parent)
        node.register_parameter(name, torch.nn.Parameter(torch.tensor(np.array(array))))
    root.gelu = QuickGELU()

    class Wrapped(type(root)):
        def forward(self, x):
            return self.gelu(x) * self.logit_scale

    root.__class__ = Wrapped
    torch.jit.trace(root, torch.zeros(3)).save(str(tmp_path / "traced.pt"))
    loaded_model, loaded = segjax.load(tmp_path / "traced.pt")
    assert loaded_model.activation == "quick_gelu"
    read, ours = flatten(loaded), flatten(variables)
    assert read.keys() == ours.keys() and len(state) == 50
    assert all(np.array_equal(read[path], ours[path]) for path in ours)


def test_published_config_names_are_read(tmp_path):
    """A config of transformers without hidden_act means its default, QuickGELU."""
    model = build_clip("clip_debug")
    variables = drawn_variables(model, init_clip)
    write_checkpoint(tmp_path / "model.safetensors", variables, format="huggingface", metadata={})
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}, "text_config": {}}))
    transformers = pytest.importorskip("transformers")
    assert transformers.CLIPVisionConfig().hidden_act == "quick_gelu"
    assert segjax.load(tmp_path)[0].activation == "quick_gelu"
