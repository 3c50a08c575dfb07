"""Products with weights: their gradients' type, alone and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.layers import Linear
from segjax.ops.sharded_dense import affine, reduce_gradients_in
from segjax.training.sharding import batch_sharding, make_mesh, replicated

ROWS, WIDTH, FEATURES = 64, 16, 8


def arrays(dtype=jnp.bfloat16):
    keys = jax.random.split(jax.random.key(0), 4)
    x, gradient = (
        jax.random.normal(k, (ROWS, n), dtype)
        for k, n in zip(keys, (WIDTH, FEATURES), strict=False)
    )
    return (
        x,
        jax.random.normal(keys[2], (WIDTH, FEATURES)),
        jax.random.normal(keys[3], (FEATURES,)),
        gradient,
    )


def gradients(sums, *given, places=None):
    """(to x, to the kernel, to the bias), float32."""

    def pulled(x, kernel, bias, gradient):
        with reduce_gradients_in(sums):
            return jax.vjp(affine, x, kernel, bias)[1](gradient)

    found = jax.jit(pulled, in_shardings=places)(*given)
    return [np.asarray(each.astype(jnp.float32)) for each in found]


def exact(x, kernel, bias, gradient):
    x, kernel, gradient = (
        np.asarray(each.astype(jnp.float32), np.float64) for each in (x, kernel, gradient)
    )
    return x.T @ gradient, gradient.sum(0)


def test_in_float32_they_are_not_rounded():
    given = arrays()
    of_kernel, of_bias = exact(*given)
    to_x, to_kernel, to_bias = gradients("float32", *given)
    np.testing.assert_allclose(to_kernel, of_kernel, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(to_bias, of_bias, rtol=1e-5, atol=1e-5)
    rounded_x, rounded, _ = gradients("", *given)
    np.testing.assert_array_equal(
        rounded, np.asarray(jnp.asarray(rounded, jnp.bfloat16).astype(jnp.float32))
    )
    assert np.abs(rounded / of_kernel - 1).max() > 1e-4, "the products' own type is what it was"
    np.testing.assert_array_equal(to_x, rounded_x)


def test_eight_devices_add_up_in_float32():
    given, mesh = arrays(), make_mesh(data=8)
    split, everywhere = batch_sharding(mesh), replicated(mesh)
    with jax.set_mesh(mesh):
        _, to_kernel, to_bias = gradients(
            "float32", *given, places=(split, everywhere, everywhere, split)
        )
    for found, expected in zip((to_kernel, to_bias), exact(*given), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_of_float32_has_the_same_gradients_either_way(bias):
    x, *_ = arrays(jnp.float32)
    layer = Linear(FEATURES, use_bias=bias)
    params = layer.init(jax.random.key(1), x)
    found = []
    for sums in ("", "float32"):
        with reduce_gradients_in(sums):
            found.append(jax.grad(lambda params: jnp.sum(jnp.sin(layer.apply(params, x))))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), *found)


def test_another_type_is_refused():
    with (
        pytest.raises(ValueError, match="summed in 'float16'; expected 'float32', or ''"),
        reduce_gradients_in("float16"),
    ):
        pass
