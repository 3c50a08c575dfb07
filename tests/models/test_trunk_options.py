"""Options of the trunk that CLIP and DINO use: masks, dense features, records, prefix tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.attention.last_block import mix_tokens, pool_by_masks
from segjax.models.layers import ACTIVATIONS, find_activation
from segjax.models.vit import Block, TokenEncoder, ViT

RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((2, 6, 16)).astype(np.float32)


def draw(module, *inputs, **options):
    """Draws variables whose arrays are all random, so that no initial zero hides an error."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))
    leaves, tree = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    values = [0.3 * rng.standard_normal(leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, values)


def apply(module, variables, *inputs, **options):
    return jax.jit(lambda v, *xs: module.apply(v, *xs, **options))(variables, *inputs)


@pytest.mark.parametrize("scan", [False, True])
def test_masks_of_all_tokens_equal_the_plain_class_token(scan):
    vit = ViT(depth=3, heads=2, scan=scan)
    variables = draw(ViT(depth=3, heads=2), TOKENS)
    plain = apply(vit, variables, TOKENS)
    pooled = apply(vit, variables, TOKENS, masks=jnp.ones((2, 4, 6), bool))
    np.testing.assert_allclose(pooled, np.repeat(plain[:, :1], 4, axis=1), atol=1e-5)


def test_a_masked_token_does_not_matter():
    vit, masks = ViT(depth=1, heads=2), np.array([[[False, True, True, False, False, False]]] * 2)
    variables = draw(vit, TOKENS)
    changed = TOKENS.copy()
    changed[:, 3:] = 7.0
    before, after = (apply(vit, variables, x, masks=jnp.array(masks)) for x in (TOKENS, changed))
    np.testing.assert_array_equal(before, after)


def test_pooling_without_scores_is_the_mean_of_the_values():
    v = RNG.standard_normal((1, 6, 2, 4)).astype(np.float32)
    masks = np.zeros((1, 3, 6), bool)
    masks[0, 0, 2], masks[0, 1, [1, 4]] = True, True
    out = pool_by_masks(np.zeros((1, 2, 4), np.float32), np.zeros_like(v), v, masks)
    np.testing.assert_allclose(out[0, 0], v[0, 2], atol=1e-6)
    np.testing.assert_allclose(out[0, 1], v[0, [1, 4]].mean(0), atol=1e-6)
    np.testing.assert_array_equal(out[0, 2], 0.0)  # a mask without any token


@pytest.mark.parametrize("scan", [False, True])
def test_the_record_gives_the_attention_of_the_last_block(scan):
    vit = ViT(depth=3, heads=2, scan=scan)
    variables = draw(ViT(depth=3, heads=2), TOKENS)
    out, (record,) = apply(vit, variables, TOKENS, record=[-1])
    np.testing.assert_allclose(out, apply(vit, variables, TOKENS), atol=1e-6)
    assert record.q.shape == record.k.shape == record.v.shape == (2, 6, 2, 8)
    assert record.weights.shape == (2, 2, 6, 6)
    np.testing.assert_allclose(record.weights.sum(-1), 1.0, atol=1e-6)
    scores = np.einsum("bqhc,bkhc->bhqk", record.q, record.k) * 8**-0.5
    ratio = np.log(np.asarray(record.weights)) - scores  # constant in each row of a softmax
    np.testing.assert_allclose(ratio, ratio[..., :1] + np.zeros_like(ratio), atol=1e-4)


def test_the_record_of_relative_positions_and_causal_masks_gives_the_output():
    grid = RNG.standard_normal((1, 2, 3, 16)).astype(np.float32)
    for options, x in (({"grid": (2, 3)}, grid), ({"causal": True}, TOKENS)):
        block = Block(heads=2, record=True, **options)
        variables = draw(block, x)
        # With an identity as projection and no MLP, the block adds weights @ v
        params = variables["params"]
        params["proj"] = {"kernel": np.eye(16, dtype=np.float32), "bias": np.zeros(16, np.float32)}
        params["mlp"] = jax.tree.map(np.zeros_like, params["mlp"])
        out, record = apply(block, variables, x)
        mixed = np.einsum("bhqk,bkhc->bqhc", record.weights, record.v).reshape(x.shape)
        np.testing.assert_allclose(out - x, mixed, atol=1e-5)


def test_causal_blocks_ignore_later_tokens():
    vit = ViT(depth=2, heads=2, causal=True)
    variables = draw(vit, TOKENS)
    changed = TOKENS.copy()
    changed[:, 4:] += 3.0
    before, after = apply(vit, variables, TOKENS), apply(vit, variables, changed)
    np.testing.assert_allclose(before[:, :4], after[:, :4], atol=1e-6)
    assert np.abs(before[:, 4:] - after[:, 4:]).max() > 0.1


def test_dense_features_keep_values_or_attend_by_self_similarity():
    q, k, v = (RNG.standard_normal((5, 2, 4)).astype(np.float32) for _ in range(3))
    np.testing.assert_array_equal(mix_tokens(q, k, v, "values"), v)
    softmax = lambda s: np.exp(s) / np.exp(s).sum(-1, keepdims=True)
    weights = sum(softmax(np.einsum("qhc,khc->hqk", x, x) / 2) for x in (q, k))
    out = mix_tokens(q, k, v, "self_similarity")
    np.testing.assert_allclose(out, np.einsum("hqk,khc->qhc", weights, v), atol=1e-5)
    with pytest.raises(ValueError, match="'values', 'self_similarity'"):
        mix_tokens(q, k, v, "value")


def test_layer_scale_of_zero_is_the_identity():
    vit = ViT(depth=2, heads=2, layer_scale=0.0)
    variables = vit.init(jax.random.key(0), TOKENS)
    assert variables["params"]["block_1"]["scale_2"].shape == (16,)
    np.testing.assert_array_equal(apply(vit, variables, TOKENS), TOKENS)


def test_options_that_are_off_have_no_parameters():
    plain = jax.eval_shape(lambda: Block(heads=2).init(jax.random.key(0), TOKENS))["params"]
    assert set(plain) == {"norm_1", "qkv", "proj", "norm_2", "mlp"}
    images = jnp.zeros((1, 32, 32, 3))
    for options, names in (
        ({}, {"patch_embed", "pos_embed", "cls_token", "trunk"}),
        (
            {"registers": 2, "pre_norm": True},
            {"patch_embed", "pos_embed", "cls_token", "trunk", "registers", "norm_pre"},
        ),
    ):
        encoder = TokenEncoder({"depth": 1, "heads": 2}, 16, 16, (2, 2), **options)
        params = jax.eval_shape(lambda e=encoder: e.init(jax.random.key(0), images))["params"]
        assert set(params) == names
    encoder = TokenEncoder({"depth": 1, "heads": 2}, 16, 16, (2, 2), patch_bias=False)
    params = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images))["params"]
    assert set(params["patch_embed"]) == {"kernel"}


def test_prefix_tokens_come_first_and_positions_follow_the_grid():
    encoder = TokenEncoder({"depth": 1, "heads": 2}, 16, 16, (2, 2), registers=2)
    variables = draw(encoder, jnp.zeros((1, 32, 32, 3)))
    assert apply(encoder, variables, jnp.zeros((1, 32, 32, 3))).shape == (1, 3 + 4, 16)
    assert apply(encoder, variables, jnp.zeros((1, 48, 64, 3))).shape == (1, 3 + 12, 16)


def test_activations():
    x = jnp.array([-2.0, 0.5, 3.0])
    np.testing.assert_allclose(ACTIVATIONS["quick_gelu"](x), x / (1 + np.exp(-1.702 * x)), 1e-6)
    np.testing.assert_allclose(ACTIVATIONS["silu"](x), x / (1 + np.exp(-x)), 1e-6)
    with pytest.raises(ValueError, match="'relu'.*gelu, quick_gelu, silu"):
        find_activation("relu")


def test_windows_refuse_what_they_cannot_do():
    block = Block(heads=2, window=2, record=True)
    with pytest.raises(ValueError, match="windows of 2 tokens"):
        block.init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))
    with pytest.raises(ValueError, match=r"\[B, K, T\]"):
        Block(heads=2).init(jax.random.key(0), TOKENS, masks=jnp.ones((2, 3, 5), bool))
