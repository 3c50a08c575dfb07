"""Adapters of SAMed: the order of their keys, and the decoder beside them."""

import jax
import numpy as np
import pytest

import segjax
from segjax.models.build import build_model, variable_shapes
from segjax.weights.checkpoint import write_checkpoint
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import CheckpointError, flatten

RANDOM = np.random.default_rng(0)
RANK, WIDTH = 4, 32


@pytest.fixture(scope="module")
def variables():
    shapes = variable_shapes(build_model("sam_debug"))
    return jax.tree.map(lambda s: RANDOM.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture
def base(variables, tmp_path):
    path = tmp_path / "sam.safetensors"
    write_checkpoint(path, variables, metadata={"model": {"name": "sam_debug"}})
    return path


def make_adapters(blocks=2):
    shapes = {"a": (RANK, WIDTH), "b": (WIDTH, RANK)}  # weights of torch's Linear: [out, in]
    return {
        f"w_{side}_{number:03d}": RANDOM.normal(size=shape).astype("f4")
        for number in range(2 * blocks)
        for side, shape in shapes.items()
    }


def test_even_numbers_adapt_q_and_odd_ones_v(variables, base, tmp_path, caplog):
    adapters = make_adapters()
    write_torch(tmp_path / "epoch_159.pth", adapters)
    _, loaded = segjax.load(base, lora=tmp_path / "epoch_159.pth")
    before, after = flatten(variables["params"]), flatten(loaded["params"])
    for block in (0, 1):
        path = f"image_encoder/trunk/block_{block}/qkv/kernel"
        change = np.asarray(after.pop(path)) - before.pop(path)
        for third, number in ((0, 2 * block), (2, 2 * block + 1)):
            product = (adapters[f"w_b_{number:03d}"] @ adapters[f"w_a_{number:03d}"]).T
            columns = slice(third * WIDTH, (third + 1) * WIDTH)
            np.testing.assert_allclose(change[:, columns], product, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(change[:, WIDTH : 2 * WIDTH], 0)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert "only the adapters of the encoder are read" in caplog.text
    assert "does not say which weights it was trained on" in caplog.text


def test_a_decoder_that_fits_is_read_too(variables, base, tmp_path):
    changed = jax.tree.map(lambda x: x + 1, variables)
    write_checkpoint(tmp_path / "all.pth", changed, metadata={})
    from segjax.weights.torch_file import read_torch

    state = dict(read_torch(tmp_path / "all.pth"))
    decoder = {name: array for name, array in state.items() if "image_encoder" not in name}
    write_torch(tmp_path / "lora.pth", make_adapters() | decoder)
    _, loaded = segjax.load(base, lora=tmp_path / "lora.pth")
    for name in ("mask_decoder", "prompt_encoder"):
        jax.tree.map(
            np.testing.assert_array_equal, dict(loaded["params"][name]), changed["params"][name]
        )


def test_other_files_are_refused(base, tmp_path):
    write_torch(tmp_path / "other.pth", {"weight": np.zeros((2, 2), "f4")})
    with pytest.raises(CheckpointError, match="holds no adapters.*w_a_000"):
        segjax.load(base, lora=tmp_path / "other.pth")
    write_torch(tmp_path / "deep.pth", make_adapters(blocks=3))
    with pytest.raises(CheckpointError, match="12 adapter arrays; a model of 2 blocks has 8"):
        segjax.load(base, lora=tmp_path / "deep.pth")
