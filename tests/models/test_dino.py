"""DINO's options of the trunk: position rules, rotary positions, registers, gated MLPs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.attention.rotary import compute_rotation, make_periods, rotate_patches
from segjax.models.dino.family import build_dino, init_dino, resize_dino_positions
from segjax.models.vit.block import Block
from segjax.ops.positions import position_weights

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
V3 = dict(registers=4, layer_scale=1e-5, position_rule="rotary")

# Ramp 0 .. M - 1 resized to n by PyTorch: entries 0, 1, 2, n // 2 and n - 1
RAMPS = [
    (37, 16, "offset", [0.55516, 2.92484, 5.29249, 19.04954, 35.17113]),
    (37, 16, "size", [0.56284, 2.95456, 5.32547, 19.20157, 35.43716]),
    (37, 16, "antialias", [0.70843, 2.91932, 5.28336, 19.15824, 35.29157]),
    (28, 60, "offset", [-0.1076, 0.15109, 0.57197, 13.66645, 27.10048]),
    (28, 60, "size", [-0.10756, 0.152, 0.57407, 13.6877, 27.10755]),
    (28, 60, "antialias", [-0.09205, 0.12782, 0.60714, 13.73333, 27.09205]),
    (37, 45, "offset", [-0.0558, 0.64544, 1.53838, 17.94093, 36.00573]),
    (37, 45, "antialias", [-0.03907, 0.68929, 1.55556, 18.0, 36.03907]),
    (14, 64, "antialias", [-0.11414, -0.06737, 0.02505, 6.60938, 13.11414]),
]


@pytest.mark.parametrize("size, target, rule, wanted", RAMPS)
def test_position_rules(size, target, rule, wanted):
    ramp = position_weights(size, target, rule) @ np.arange(size)
    np.testing.assert_allclose(ramp[[0, 1, 2, target // 2, -1]], wanted, atol=2e-5)


def test_the_antialias_rule_is_jax_image_resize():
    table = np.random.default_rng(0).normal(size=(37, 3)).astype(np.float32)
    for target in (16, 45):
        wanted = jax.image.resize(table, (target, 3), "cubic", antialias=True)
        ours = position_weights(37, target, "antialias") @ table
        np.testing.assert_allclose(ours, wanted, atol=5e-6)
    with pytest.raises(ValueError, match="position rule 'bicubic' is unknown; choose one of size"):
        position_weights(4, 5, "bicubic")


def test_rotations_of_published_heads():
    periods = make_periods(64)
    np.testing.assert_allclose(periods[[0, 1, 4, 15]], [1, 1.33352, 3.16228, 74.9894], rtol=1e-5)
    sine, _ = compute_rotation((2, 3), jnp.asarray(periods))
    np.testing.assert_allclose(sine[0, :4], [8.7e-8, -0.707342, -0.980882, -0.969895], atol=2e-6)
    np.testing.assert_allclose(
        sine[0, 16:20], [0.866025, -0.000444, -0.707577, -0.980931], atol=2e-6
    )
    np.testing.assert_array_equal(sine[:, :32], sine[:, 32:])
    with pytest.raises(ValueError, match="heads of 6 channels cannot rotate"):
        make_periods(6)


def test_rotation_leaves_the_prefix_and_keeps_products_of_equal_offsets():
    rng = np.random.default_rng(0)
    rotation = compute_rotation((4, 4), jnp.asarray(make_periods(16)))
    x = rng.normal(size=(1, 2 + 16, 2, 16)).astype(np.float32)
    turned = rotate_patches(jnp.asarray(x), rotation)
    np.testing.assert_array_equal(turned[:, :2], x[:, :2])
    # The product of a query and a key depends on the difference of their positions
    same = jnp.broadcast_to(jnp.asarray(x[:, 2:3]), (1, 16, 2, 16))
    other = jnp.broadcast_to(jnp.asarray(x[:, 3:4]), (1, 16, 2, 16))
    q, k = rotate_patches(same, rotation), rotate_patches(other, rotation)
    products = np.einsum("bqhc,bkhc->hqk", q, k)
    np.testing.assert_allclose(products[:, 0, 5], products[:, 10, 15], atol=1e-4)
    np.testing.assert_allclose(products[:, 0, 1], products[:, 8, 9], atol=1e-4)


@pytest.mark.parametrize("options", [{}, V3, dict(gated=True, qkv_bias=False, layer_scale=0.5)])
def test_tokens_and_scan(options):
    model = build_dino("dino_debug", **options)
    variables = init_dino(model, jax.random.key(0))
    tokens = jax.jit(model.apply)(variables, IMAGES)
    assert tokens.shape == (2, 1 + model.registers + 4 * 6, 32)
    scanned = jax.jit(model.clone(scan=True).apply)(variables, IMAGES)
    np.testing.assert_allclose(tokens, scanned, atol=2e-6)
    patches = model.apply(variables, IMAGES, method="encode_image")
    np.testing.assert_allclose(patches[0, 1, 2], tokens[0, -24 + 8], atol=2e-6)


def test_registers_follow_the_class_token_and_have_no_position():
    plain = build_dino("dino_debug", layer_scale=1.0)
    model = plain.clone(registers=3)
    params = init_dino(model, jax.random.key(0))["params"]
    vit = dict(params["vit"])
    # Without blocks that mix tokens, the outputs are the normalized inputs
    trunk = jax.tree.map(jnp.zeros_like, vit["trunk"])
    ours = model.apply({"params": {**params, "vit": {**vit, "trunk": trunk}}}, IMAGES)
    registers = vit.pop("registers")
    theirs = plain.apply({"params": {**params, "vit": {**vit, "trunk": trunk}}}, IMAGES)
    np.testing.assert_allclose(ours[:, [0, *range(4, 28)]], theirs, atol=1e-6)
    centered = registers - registers.mean(-1, keepdims=True)
    wanted = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(ours[0, 1:4], wanted, atol=1e-5)


def test_gated_mlp_is_silu_times_the_second_half():
    block = Block(heads=2, gated=True, activation="silu", mlp_ratio=2.0)
    x = np.random.default_rng(0).normal(size=(1, 5, 8)).astype(np.float32)
    variables = block.init(jax.random.key(0), x)
    params = jax.tree.map(np.array, variables["params"])
    params["proj"]["kernel"][:] = 0
    out = block.apply({"params": params}, x) - x
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    hidden = y @ params["mlp"]["layer_0"]["kernel"]
    a, b = hidden[..., :16], hidden[..., 16:]
    np.testing.assert_allclose(
        out, (a / (1 + np.exp(-a)) * b) @ params["mlp"]["layer_1"]["kernel"], atol=1e-6
    )


def test_another_canvas_resizes_positions_as_the_model_does():
    for rule in ("offset", "size", "antialias"):
        small = build_dino("dino_debug", position_rule=rule)
        variables = init_dino(small, jax.random.key(0))
        large = small.clone(canvas=48)
        images = np.zeros((1, 48, 48, 3), np.uint8)
        resized = resize_dino_positions(variables, small, large)
        np.testing.assert_allclose(
            large.apply(resized, images), small.apply(variables, images), atol=1e-5
        )


def test_bad_images():
    model = build_dino("dino_debug")
    variables = init_dino(model, jax.random.key(0))
    with pytest.raises(ValueError, match="takes RGB"):
        model.apply(variables, np.zeros((1, 32, 32, 1), np.uint8))
    with pytest.raises(ValueError, match="multiple of the patch 8; use 24 or 32"):
        model.apply(variables, np.zeros((1, 32, 30, 3), np.uint8))
