"""Attention between few tokens and many image cells: folded and direct match the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.sam import two_way_transformer
from segjax.models.sam.two_way_transformer import ProjectedAttention

RNG = np.random.default_rng(0)
WIDTH, TOKENS, CELLS = 64, 3, 50
MODULE = ProjectedAttention(heads=2, downsample=2)
compiled = jax.jit(MODULE.apply)


def apply(*inputs):
    return np.asarray(compiled(*inputs))


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(lambda: MODULE.init(jax.random.key(0), *[jnp.zeros((1, 1, WIDTH))] * 3))
    return jax.tree.map(lambda leaf: 0.15 * normal(*leaf.shape), shapes)


def oracle(variables, q, k, v, valid=None):
    """Computes direct attention of one prompt in float64 NumPy: q [Tq, D], k and v [Tk, D]."""
    linear = lambda name, x: (
        x.astype(np.float64) @ variables["params"][name]["kernel"]
        + variables["params"][name]["bias"]
    )
    q, k, v = (
        linear(name, x).reshape(len(x), 2, -1) for name, x in zip("qkv", (q, k, v), strict=True)
    )
    scores = np.einsum("qhc,khc->hqk", q, k) * q.shape[-1] ** -0.5
    if valid is not None:
        scores[:, :, ~valid] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("hqk,khc->qhc", weights / weights.sum(-1, keepdims=True), v)
    return linear("out", mixed.reshape(len(mixed), -1))


def test_attention_is_folded_for_few_tokens_and_direct_for_many(monkeypatch):
    """Folding pays if 2 * T * 50 * 64 + T * 64 * 32 < 50 * 64 * 32 + T * 50 * 32, so if T <= 14."""
    direct = []
    monkeypatch.setattr(
        two_way_transformer, "attention", lambda q, *rest, **options: direct.append(1) or q
    )
    variables = {
        "params": {name: {"kernel": normal(WIDTH, 32), "bias": normal(32)} for name in "qkv"}
    }
    variables["params"]["out"] = {"kernel": normal(32, WIDTH), "bias": normal(WIDTH)}
    for tokens, cells in ((14, CELLS), (15, CELLS)):
        MODULE.apply(variables, normal(cells, WIDTH), *[normal(tokens, WIDTH)] * 2)
        MODULE.apply(variables, normal(tokens, WIDTH), *[normal(cells, WIDTH)] * 2)
        assert len(direct) == (0 if tokens == 14 else 2)


def test_tokens_attend_to_the_image(variables):
    tokens, positions, image = (
        normal(2, TOKENS, WIDTH),
        normal(CELLS, WIDTH),
        normal(2, CELLS, WIDTH),
    )
    out = apply(variables, tokens, image + positions, image)
    for i in range(2):
        expected = oracle(variables, tokens[i], image[i] + positions, image[i])
        np.testing.assert_allclose(out[i], expected, atol=2e-5)


def test_many_prompts_attend_to_one_image_that_is_projected_once(variables):
    tokens, image = normal(1, 4, TOKENS, WIDTH), normal(1, 1, CELLS, WIDTH)
    out = apply(variables, tokens, image, image)
    for i in range(4):
        np.testing.assert_allclose(
            out[0, i], oracle(variables, tokens[0, i], image[0, 0], image[0, 0]), atol=2e-5
        )


@pytest.mark.parametrize("lead", [(2, 4), (2, 1)])  # an image for each prompt, or one for all
def test_the_image_attends_to_valid_tokens(variables, lead):
    image, tokens, keys = (
        normal(*lead, CELLS, WIDTH),
        normal(2, 4, TOKENS, WIDTH),
        normal(2, 4, TOKENS, WIDTH),
    )
    valid = np.arange(TOKENS) <= np.arange(4)[:, None]
    out = apply(variables, image, keys, tokens, np.broadcast_to(valid, (2, 4, TOKENS)))
    for b in range(2):
        for p in range(4):
            expected = oracle(variables, image[b, p % lead[1]], keys[b, p], tokens[b, p], valid[p])
            np.testing.assert_allclose(out[b, p], expected, atol=2e-5)


def test_gradients_do_not_depend_on_folding(variables, monkeypatch):
    """Checks both directions, with respect to all parameters and inputs."""
    tokens, image = normal(TOKENS, WIDTH), normal(CELLS, WIDTH)
    few = lambda variables, tokens, image: jnp.sum(
        jnp.sin(MODULE.apply(variables, tokens, image, image))
    )
    many = lambda variables, tokens, image: jnp.sum(
        jnp.sin(MODULE.apply(variables, image, tokens, tokens))
    )
    both = lambda: jax.jit(jax.grad(lambda *inputs: few(*inputs) + many(*inputs), (0, 1, 2)))(
        variables, tokens, image
    )
    folded = both()
    monkeypatch.setattr(two_way_transformer, "_is_folding_cheaper", lambda *sizes: False)
    direct = both()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), folded, direct
    )
