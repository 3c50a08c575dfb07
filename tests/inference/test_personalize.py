"""PerSAM: guidance of the decoder in closed form, and the object of one example elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image

import segjax
from segjax.cli import main
from segjax.inference.sam.mask_weights import compute_loss, learn_mask_weights
from segjax.inference.sam.personalize import PersonalSam
from segjax.models.sam.build import build_sam, init_sam
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.two_way_transformer import Guidance, _attend_guided

RNG = np.random.default_rng(0)
MODEL = build_sam("sam_debug")
SIDE = MODEL.canvas // MODEL.patch
CLICK = Prompts(points=jnp.full((1, 1, 1, 2), 20.0), labels=jnp.ones((1, 1, 1), jnp.int32))


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(MODEL, init_sam)


@pytest.fixture(scope="module")
def decode(variables):
    embedding = RNG.standard_normal((1, SIDE, SIDE, MODEL.prompt_width)).astype(np.float32)
    return jax.jit(
        lambda *guidance: MODEL.apply(variables, embedding, CLICK, *guidance, method="decode")
    )


def test_the_second_softmax_is_that_of_the_sum():
    q, k, v = (RNG.standard_normal((5, 2, 4)).astype(np.float32) for _ in range(3))
    similarity = RNG.random(5).astype(np.float32)
    softmax = lambda s: np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    weights = softmax(softmax(np.einsum("qhc,khc->hqk", q, k) / 2) + similarity)
    wanted = np.einsum("hqk,khc->qhc", weights, v)
    np.testing.assert_allclose(_attend_guided(q, k, v, jnp.asarray(similarity)), wanted, atol=1e-5)


def test_constant_similarity_does_not_guide(decode):
    """A softmax does not change if the same number is added everywhere."""
    zero = jnp.zeros((1, 1, MODEL.prompt_width))
    low, high = (
        decode(Guidance(zero, jnp.full((1, 1, SIDE**2), value)))[0] for value in (0.0, 0.7)
    )
    np.testing.assert_allclose(low, high, atol=1e-4)


def test_the_target_and_the_similarity_change_the_masks(decode):
    plain, _ = decode()
    flat = jnp.zeros((1, 1, SIDE**2))
    target = jnp.asarray(RNG.standard_normal((1, 1, MODEL.prompt_width)), jnp.float32)
    guided, _ = decode(Guidance(target, flat))
    other, _ = decode(Guidance(target, flat.at[..., 3].set(1.0)))
    assert np.abs(plain - guided).max() > 1e-3 and np.abs(guided - other).max() > 1e-4


def paint(corner, background):
    """An image with a red square of 40 pixels at a corner (x, y), and its mask."""
    image = np.full((128, 128, 3), background, np.uint8)
    mask = np.zeros((128, 128), bool)
    mask[corner[1] : corner[1] + 40, corner[0] : corner[0] + 40] = True
    image[mask] = (220, 30, 30)
    image[90:120, 8:38] = (30, 60, 220)  # another object
    return image, mask


def test_the_demo_model_finds_the_object_elsewhere():
    personal = PersonalSam(segjax.SamPredictor.load("sam_tiny_demo"))
    personal.set_example(*paint((16, 16), 120))
    image, truth = paint((70, 40), 120)
    found = personal.predict(image)
    assert found.similarity.shape == (128, 128) and found.similarity.min() >= -1
    x, y = found.points[0]
    assert truth[y, x] and not truth[found.points[1][1], found.points[1][0]]
    overlap = (found.mask & truth).sum() / (found.mask | truth).sum()
    assert overlap > 0.6


def test_bad_examples_are_told(variables):
    personal = PersonalSam(segjax.SamPredictor(MODEL, variables))
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="no example is set"):
        personal.predict(image)
    with pytest.raises(ValueError, match=r"mask is \(4, 4\), its image \(64, 64\)"):
        personal.set_example(image, np.ones((4, 4), bool))
    with pytest.raises(ValueError, match="mask is empty"):
        personal.set_example(image, np.zeros((64, 64), bool))
    tiny = np.zeros((64, 64), bool)
    tiny[0, 0] = True
    with pytest.raises(ValueError, match="covers no cell"):
        personal.set_example(image, tiny)


def test_command(tmp_path, capsys):
    image, mask = paint((16, 16), 120)
    Image.fromarray(image).save(tmp_path / "example.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    Image.fromarray(paint((70, 40), 120)[0]).save(tmp_path / "other.png")
    example = ("--example", str(tmp_path / "example.png"), str(tmp_path / "mask.png"))
    out = ("--out", str(tmp_path / "out"))
    assert main(["predict", str(tmp_path / "other.png"), *example, *out]) == 0
    assert (tmp_path / "out" / "other_mask_0.png").is_file()
    assert main(["predict", str(tmp_path / "other.png"), *example, "--point", "1,1", *out]) == 2
    assert "--example alone" in capsys.readouterr().err


def test_learned_weights_choose_the_right_mask_and_sum_to_one():
    truth = np.zeros((16, 16), bool)
    truth[4:12, 4:12] = True
    wrong = np.where(np.roll(truth, 5, 0), 4.0, -4.0)
    for right in range(3):
        logits = np.stack([wrong] * 3)
        logits[right] = np.where(truth, 4.0, -4.0)
        weights = learn_mask_weights(logits, truth)
        assert weights.sum() == pytest.approx(1.0, abs=1e-5) and weights.argmax() == right
    start = learn_mask_weights(logits, truth, steps=1)  # the first step is as long as the rate
    assert start.tolist() == pytest.approx([1 / 3] * 3, abs=3e-3)


def test_loss_by_hand():
    logits, truth = np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.0, 0.0])
    p = 1 / (1 + np.exp(-logits))
    dice = 1 - (2 * p[0] + 1) / (p.sum() + 1 + 1)
    focal = [
        0.25 * -np.log(p[0]) * (1 - p[0]) ** 2,
        *(0.75 * -np.log(1 - q) * q**2 for q in p[1:]),
    ]
    loss = compute_loss(jnp.asarray(logits), jnp.asarray(truth))
    assert float(loss) == pytest.approx(dice + np.mean(focal), rel=1e-5)


def test_the_learned_variant_uses_one_click():
    personal = PersonalSam(segjax.SamPredictor.load("sam_tiny_demo"))
    personal.set_example(*paint((16, 16), 120), learn=True)
    image, truth = paint((70, 40), 120)
    found = personal.predict(image)
    assert found.points.shape == (1, 2) and truth[found.points[0][1], found.points[0][0]]
    assert (found.mask & truth).sum() / (found.mask | truth).sum() > 0.6
