"""Compares the classifier with transformers' ViTForImageClassification: weights and files.

pip install .[test,parity]
pytest -m parity tests/parity/test_vit_parity.py
"""

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import make_images

from segjax.models.classifier import build_classifier, init_classifier
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5  # of the largest magnitude of the reference
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def reference(model):
    """A freshly drawn float32 model of the same size, in evaluation."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=model.width,
        num_hidden_layers=model.depth,
        num_attention_heads=model.heads,
        intermediate_size=4 * model.width,
        image_size=model.canvas,
        patch_size=model.patch,
        num_labels=model.classes,
        layer_norm_eps=model.epsilon,
        attn_implementation="eager",
    )
    return transformers.ViTForImageClassification(config).eval()


@pytest.mark.parametrize(
    "options", [{"name": "vit_tiny"}, {"name": "vit_debug", "classes": 13, "epsilon": 1e-12}]
)
def test_logits_and_files_both_ways(options, tmp_path, record_property):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = build_classifier(**options)
    theirs = reference(model)
    # Drawn weights, of which every one matters, by way of our file; then back by way of theirs.
    variables = drawn_variables(model, init_classifier)
    theirs.save_pretrained(tmp_path)
    write_checkpoint(tmp_path / "model.safetensors", variables, format="huggingface", metadata={})
    loaded, report = type(theirs).from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    loaded.save_pretrained(tmp_path / "again")
    found = read_checkpoint(tmp_path / "again" / "model.safetensors").variables(variables)
    jax.tree.map(np.testing.assert_array_equal, found, variables)

    images = make_images(model.canvas, 3)
    pixels = torch.from_numpy(((images - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        want = loaded.eval()(pixels).logits.numpy()
    ours = np.asarray(jax.jit(lambda v, x: model.apply(v, x))(found, images))
    value = float(np.abs(ours - want).max() / np.abs(want).max())
    record_property("difference", value)
    print(f"{options}: {value:.1e}")
    assert value < TOLERANCE
