import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers import LayerNorm, Linear, drop_path
from segjax.models.vit import PatchEmbed, ViT

OPTIONS = dict(depth=4, heads=2, window=3, global_blocks=(1, 3), grid=(4, 4), drop_path=0.5)
X = np.random.default_rng(0).standard_normal((3, 4, 4, 16)).astype(np.float32)


def initialised(model, x):
    return jax.jit(model.init)(jax.random.key(0), x)


@pytest.fixture(scope="module")
def params():
    params = initialised(ViT(**OPTIONS), X)["params"]
    noise = lambda leaf, i: (
        np.asarray(leaf) + 0.3 * np.random.default_rng(i).standard_normal(leaf.shape, np.float32)
    )
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [noise(leaf, i) for i, leaf in enumerate(leaves)])


KEY = jax.random.key(3)
OPTIONS_OF_MEMORY = [
    dict(scan=True, remat="full"),
    pytest.param(dict(remat="dots"), marks=pytest.mark.slow),
]
LEGACY = jax.random.PRNGKey(3)


@functools.cache
def outcome_of(**options):
    """Returns a jitted function, params -> (output, gradient of a scalar of it)."""
    model = ViT(**OPTIONS | options)

    def scalar(params):
        out = model.apply({"params": params}, X, train=True, rngs={"drop_path": KEY})
        return jnp.mean(jnp.sin(out) * X), out

    return jax.jit(jax.value_and_grad(scalar, has_aux=True))


def assert_same(a, b, atol=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


@pytest.mark.parametrize("options", OPTIONS_OF_MEMORY, ids=str)
def test_scan_and_remat_change_nothing(params, options):
    """Compares values and gradients with windows, global blocks and drop path."""
    assert_same(outcome_of()(params), outcome_of(**options)(params))


@pytest.mark.slow
def test_scan_with_a_legacy_key(params):
    run = lambda params, scan: ViT(**OPTIONS | dict(scan=scan)).apply(
        {"params": params}, X, train=True, rngs={"drop_path": LEGACY}
    )
    plain, scanned = (jax.jit(run, static_argnums=1)(params, scan) for scan in (False, True))
    assert_same(plain, scanned)


def test_scan_of_a_stack_without_a_repeating_unit():
    options = dict(depth=4, heads=2, window=2, global_blocks=(1, 2), grid=(4, 4))
    variables = initialised(ViT(**options), X)
    plain, scanned = (
        jax.jit(ViT(**options, scan=scan).apply)(variables, X) for scan in (False, True)
    )
    assert_same(plain, scanned)


def test_scan_initialises_the_same_tree():
    shapes = lambda **more: jax.eval_shape(ViT(**OPTIONS, **more).init, jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, shapes()) == jax.tree.map(jnp.shape, shapes(scan=True))
    assert sorted(shapes()["params"]) == [f"block_{i}" for i in range(4)]


def test_unknown_remat():
    with pytest.raises(ValueError, match="remat 'ful'.*'none', 'full', 'dots'"):
        ViT(**OPTIONS, remat="ful").init(jax.random.key(0), X)


def test_dropping_needs_training_and_a_key(params):
    model = ViT(**OPTIONS)
    evaluated = jax.jit(model.apply)({"params": params}, X)
    never_drops = ViT(**OPTIONS | dict(drop_path=0.0))
    assert_same(
        evaluated, jax.jit(lambda v: never_drops.apply(v, X, train=True))({"params": params})
    )
    assert not np.allclose(evaluated, outcome_of()(params)[0][1])
    with pytest.raises(Exception, match="drop_path"):
        model.apply({"params": params}, X, train=True)


def test_drop_path_statistics():
    """Whole examples are dropped, and the others scaled so that the mean stays."""
    x = jnp.ones((4000, 2, 3))
    out = np.asarray(drop_path(x, 0.3, jax.random.key(0)))
    per_example = out.reshape(4000, -1)
    assert np.all(per_example == per_example[:, :1])
    np.testing.assert_allclose(np.unique(per_example), [0, 1 / 0.7], rtol=1e-6)
    dropped = (per_example[:, 0] == 0).mean()
    assert abs(dropped - 0.3) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    assert drop_path(x, 0.3, None) is x
    assert drop_path(x.astype(jnp.bfloat16), 0.3, jax.random.key(0)).dtype == jnp.bfloat16


def test_drop_path_grows_linearly_with_depth():
    """Counts dropped blocks: block i adds one to channel i unless it is dropped."""
    depth, rate, batch = 4, 0.6, 3000
    model = ViT(depth=depth, heads=1, drop_path=rate)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1, 4)))["params"]
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    for i in range(depth):
        zero[f"block_{i}"]["proj"]["bias"] = jnp.eye(4)[i]
    run = jax.jit(
        lambda params, x: model.apply({"params": params}, x, train=True, rngs={"drop_path": KEY})
    )
    out = run(zero, jnp.zeros((batch, 1, 4)))
    dropped = (np.asarray(out)[:, 0] == 0).mean(0)
    np.testing.assert_allclose(
        dropped, rate * np.arange(depth) / (depth - 1), atol=4 * 0.5 / batch**0.5
    )


def test_sequences_without_windows_or_positions():
    """Compares [B, T, D], as in MAE, with a map of the same tokens without positions."""
    model = ViT(depth=2, heads=2)
    variables = initialised(model, X.reshape(3, 16, 16))
    out = jax.jit(model.apply)(variables, X.reshape(3, 16, 16))
    assert out.shape == (3, 16, 16)
    np.testing.assert_allclose(
        jax.jit(model.apply)(variables, X).reshape(out.shape), out, atol=1e-5
    )


def test_patch_embed_is_a_strided_convolution():
    images = np.random.default_rng(1).standard_normal((2, 8, 12, 3)).astype(np.float32)
    module = PatchEmbed(width=5, patch=4)
    variables = initialised(module, images)
    variables["params"]["bias"] = np.arange(5, dtype=np.float32)
    dims = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(
        images, variables["params"]["kernel"], (4, 4), "VALID", dimension_numbers=dims
    )
    np.testing.assert_allclose(
        jax.jit(module.apply)(variables, images), np.asarray(expected) + np.arange(5), atol=1e-5
    )


def test_layer_norm_and_linear_in_half_precision():
    x = (np.random.default_rng(0).standard_normal((4, 64)) + 300).astype(np.float32)
    norm = LayerNorm(dtype=jnp.bfloat16)
    out = jax.jit(norm.apply)(initialised(norm, x), x)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.02)
    linear = Linear(3, dtype=jnp.bfloat16)
    variables = initialised(linear, x)
    assert (
        variables["params"]["kernel"].dtype == jnp.float32
        and linear.apply(variables, x).dtype == jnp.bfloat16
    )
