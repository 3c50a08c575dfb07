"""The attention kernel of TPUs compared with plain attention, interpreted on CPUs.

Most tests use Pallas' plain interpreter. The one of TPU kernels takes several times as long, and
waits forever if there are fewer cores than devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.extend import core

from segjax.models.attention import attention
from segjax.models.attention.tpu import _block, _block_sizes
from segjax.models.vit import ViT

RNG = np.random.default_rng(0)
KERNEL = "pallas_call"


@pytest.fixture
def interpreted(monkeypatch):
    kernel = functools.partial(splash_attention.make_splash_mha_single_device, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha_single_device", kernel)


def normal(*shape, dtype=np.float32):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def value_and_gradients(impl, inputs):
    """Returns a scalar and its gradients by q, k, v and relative scores."""

    def loss(q, k, v, *relative):
        out = attention(q, k, v, relative=relative or None, impl=impl)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    return jax.jit(jax.value_and_grad(loss, range(len(inputs)), has_aux=True))(*inputs)


@pytest.mark.usefixtures("interpreted")
def test_values_and_gradients_are_those_of_xla():
    """Covers 128 queries with relative positions, a grid of 16 x 16 keys, and v narrower than q."""
    inputs = [
        normal(2, 128, 2, 8),
        normal(2, 256, 2, 8),
        normal(2, 256, 2, 4),
        *[normal(2, 128, 2, 16)] * 2,
    ]
    plain = value_and_gradients("xla", inputs)
    kernel = value_and_gradients("pallas", inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), plain, kernel)


def test_half_precision_without_a_batch():
    """Runs in the interpreter of TPU kernels.

    Scores and sums are float32. Weights and values are rounded to 8 bits.
    """
    q, k, v = (normal(128, 1, 16, dtype=jnp.bfloat16) for _ in range(3))
    exact = attention(*(x.astype(jnp.float32) for x in (q, k, v)))
    with pltpu.force_tpu_interpret_mode():
        out = jax.jit(lambda q, k, v: attention(q, k, v, impl="pallas"))(q, k, v)
    assert out.dtype == jnp.bfloat16 and out.shape == (128, 1, 16)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.01 * np.abs(exact).max())


def primitives(jaxpr, inside=()):
    """Yields (name, names of the enclosing equations) of all equations of a program."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, inside
        for inner in core.jaxprs_in_params(equation.params):
            yield from primitives(inner, (*inside, equation.primitive.name))


def kernels(function, *arguments):
    """Returns the names of the equations around each kernel of a traced program."""
    return [
        inside
        for name, inside in primitives(jax.make_jaxpr(function)(*arguments).jaxpr)
        if name == KERNEL
    ]


@pytest.mark.parametrize("queries, keys", [(196, 196), (8, 256), (256, 8), (0, 128), (128, 128)])
def test_what_the_kernel_cannot_take_is_left_to_xla(queries, keys):
    """Covers lengths that are not multiples of 128, and invalid keys."""
    inputs = normal(2, queries, 2, 8), normal(2, keys, 2, 8), normal(2, keys, 2, 8)
    valid = np.ones((2, keys), bool) if queries == keys == 128 else None
    trace = lambda impl: jax.make_jaxpr(
        lambda q, k, v: attention(q, k, v, key_valid=valid, impl=impl)
    )(*inputs)
    assert str(trace("xla")) == str(trace("pallas"))


def test_blocks_divide_the_sequence():
    lengths = (4096, 512), (1152, 512), (640, 300), (896, 512), (128, 0)
    assert [_block(*each) for each in lengths] == [512, 384, 128, 128, 128]
    sam = _block_sizes(4096, 4096, 256 * 2)  # 192 channels in bfloat16, which lie as 256
    assert (sam.block_kv, sam.block_kv_compute, sam.block_kv_dkv, sam.has_backward_blocks) == (
        2048,
        512,
        1024,
        True,
    )


def on_mesh():
    return jax.set_mesh(
        jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    )


@pytest.mark.usefixtures("interpreted")
def test_devices_attend_to_their_own_examples():
    """Covers 8 examples on 8 devices, and 2 examples that each device computes."""
    inputs = [normal(8, 128, 1, 8), normal(8, 128, 1, 8), normal(8, 128, 1, 4)]
    two = [x[:2] for x in inputs]
    (_, plain), gradients = value_and_gradients("xla", inputs)
    with on_mesh():
        (_, spread), spread_gradients = value_and_gradients("pallas", inputs)
        whole = jax.jit(lambda q, k, v: attention(q, k, v, impl="pallas"))(*two)
    assert len(spread.sharding.device_set) == 8 and spread.addressable_shards[0].data.shape[0] == 1
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)
    jax.tree.map(close, (plain, gradients), (spread, spread_gradients))
    close(plain[:2], whole)


def test_of_a_vit_only_global_blocks_have_the_kernel():
    """Covers scan, rematerialization and a mesh: three kernels, each inside a shard_map."""
    vit = ViT(
        2, 2, window=7, global_blocks=(1,), grid=(16, 16), scan=True, remat="full", impl="pallas"
    )
    x = jax.ShapeDtypeStruct((8, 16, 16, 16), jnp.float32)
    variables = jax.eval_shape(vit.init, jax.random.key(0), x)
    with on_mesh():
        found = kernels(jax.grad(lambda params, x: vit.apply(params, x).sum()), variables, x)
    assert len(found) == 3 and all("shard_map" in inside and "scan" in inside for inside in found)
