"""Compares MAE with transformers' ViTMAEForPreTraining: equal weights and noise, and files.

pip install .[test,parity]
pytest -m parity tests/parity/test_mae_parity.py
"""

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.mae_inputs import inputs

from segjax.losses.reconstruction import reconstruction_loss
from segjax.models.mae import build_mae, init_mae
from segjax.ops.positions import make_sincos_positions, resize_bicubic
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5  # of the largest magnitude of the reference

SIZES = {
    "tiny": dict(name="mae_tiny"),
    # The epsilon of its configuration, raw pixels, patches of 14, and unusual sizes
    "odd": dict(
        name="mae_debug", canvas=70, patch=14, mask_ratio=0.6, norm_pix=False, epsilon=1e-12
    ),
}


def difference(ours, theirs) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from parity.mae_reference import TransformersMae

    return TransformersMae


def compare(reference, record_property, count, **size):
    model = build_mae(**size)
    variables = drawn_variables(model, init_mae)
    images, noise = inputs(model, count)

    @jax.jit
    def ours(variables, images, noise):
        tokens, _, masked = model.apply(variables, images, noise, method="encode_visible")
        prediction, _ = model.apply(variables, images, noise)
        total, weight = reconstruction_loss(
            prediction, images, masked, patch=model.patch, norm_pix=model.norm_pix
        )
        return dict(
            loss=total / weight,
            prediction=prediction,
            tokens=tokens,
            masked=masked.astype(np.float32),
        )

    found, want = ours(variables, images, noise), reference(model, variables).answers(images, noise)
    np.testing.assert_array_equal(found["masked"], want["masked"])
    for name in ("loss", "prediction", "tokens"):
        value = difference(found[name], want[name])
        record_property(name, value)
        print(f"{size}: {name}: {value:.1e}")
        assert value < TOLERANCE, (
            f"{name} differs by {value:.1e} of the reference's largest magnitude"
        )


@pytest.mark.parametrize("size", SIZES)
def test_loss_prediction_and_tokens(reference, record_property, size):
    compare(reference, record_property, 3, **SIZES[size])


@pytest.mark.slow
def test_published_size(reference, record_property):
    """ViT-B/16 at 224 pixels."""
    compare(reference, record_property, 2, name="mae_vit_b")


def test_the_table_is_the_one_that_transformers_makes(reference):
    from transformers import ViTMAEConfig
    from transformers.models.vit_mae.modeling_vit_mae import ViTMAEEmbeddings

    embeddings = ViTMAEEmbeddings(ViTMAEConfig(hidden_size=48, image_size=80))
    embeddings.initialize_weights()
    theirs = embeddings.position_embeddings.detach().numpy()[0]
    assert not theirs[0].any()
    np.testing.assert_allclose(
        make_sincos_positions((5, 5), 48).reshape(25, 48), theirs[1:], atol=1e-6
    )


@pytest.mark.parametrize("shape", [(16, 16), (7, 23), (5, 3), (40, 9), (14, 64)])
def test_bicubic_resize(shape):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((14, 14, 3)).astype(np.float32)
    channels = torch.from_numpy(table).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(channels, shape, mode="bicubic", align_corners=False)[
        0
    ].permute(1, 2, 0)
    assert difference(resize_bicubic(table, shape), theirs.numpy()) < 1e-6


def test_files_go_both_ways(reference, tmp_path):
    """Reads what save_pretrained writes exactly, and from_pretrained reads our files."""
    model = build_mae("mae_debug")
    variables = drawn_variables(model, init_mae)
    theirs = reference(model, variables).mae
    theirs.save_pretrained(tmp_path)
    found = read_checkpoint(tmp_path / "model.safetensors").variables(variables)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    (tmp_path / "model.safetensors").unlink()
    write_checkpoint(
        tmp_path / "model.safetensors",
        variables,
        format="huggingface",
        metadata={},
        canvas=model.canvas,
    )
    loaded, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    want, have = theirs.state_dict(), loaded.state_dict()
    assert want.keys() == have.keys() and all(want[key].equal(have[key]) for key in want)
