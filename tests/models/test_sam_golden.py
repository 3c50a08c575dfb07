"""Every stage equals the reference implementation. tools/make_goldens.py stores its results."""

import pathlib

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from golden.sam_inputs import as_one_call, make_images, prompts

from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.prompt_encoder import Prompts

MODEL = build_sam("sam_debug")
GRID = MODEL.canvas // MODEL.patch
CASES = prompts(MODEL.canvas, 4 * GRID)


def assert_close(ours, golden):
    """Compares to 2e-5 of the largest magnitude, because CPUs sum in different orders."""
    np.testing.assert_allclose(np.asarray(ours), golden, rtol=0, atol=2e-5 * np.abs(golden).max())


@pytest.fixture(scope="module")
def golden():
    with np.load(pathlib.Path(__file__).parent.parent / "golden" / "sam_debug.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(MODEL, init_sam)


@pytest.fixture(scope="module")
def outputs(golden, variables):
    fields = Prompts(**as_one_call(CASES, 4 * GRID))
    embedding = golden["embedding"][:1]
    encode = lambda module: module.prompt_encoder(fields, (MODEL.canvas,) * 2, (GRID, GRID))
    stages = lambda: (
        MODEL.apply(variables, method=encode),
        MODEL.apply(variables, embedding, fields, method="decode"),
    )
    return jax.tree.map(np.asarray, jax.jit(stages)())


def test_the_image_embedding_equals_the_reference(golden, variables):
    encode = jax.jit(
        lambda images, sizes: MODEL.apply(variables, images, sizes, method="encode_image")
    )
    images = make_images(MODEL.canvas)
    full = np.array([[MODEL.canvas, MODEL.canvas]] * 2)
    assert_close(encode(images, full), golden["embedding"])
    narrow = np.array([[MODEL.canvas, MODEL.canvas * 5 // 8], [MODEL.canvas, MODEL.canvas]])
    assert_close(encode(images, narrow)[0], golden["padded_embedding"])


@pytest.mark.parametrize("kind", CASES)
def test_the_prompt_encoder_equals_the_reference(golden, outputs, kind):
    (tokens, valid, dense), _ = outputs
    row = list(CASES).index(kind)
    ours = tokens[0, row][valid[0, row]]
    assert ours.shape == golden[f"{kind}/tokens"].shape
    if len(ours):
        assert_close(ours, golden[f"{kind}/tokens"])
    if "mask" in CASES[kind]:
        assert_close(dense[0, row], golden[f"{kind}/dense"])


@pytest.mark.parametrize("kind", CASES)
def test_the_mask_decoder_equals_the_reference(golden, outputs, kind):
    _, (logits, iou) = outputs
    row = list(CASES).index(kind)
    assert_close(logits[0, row], golden[f"{kind}/logits"])
    assert_close(iou[0, row], golden[f"{kind}/iou"])
