"""Split parameters are gathered; activations never change devices."""

import jax
import jax.numpy as jnp
import pytest

from segjax.models.vit import ViT
from segjax.scaling.traffic import read_traffic
from segjax.training.sharding import batch_sharding, make_mesh, state_shardings

# Few activations for the size of the weights: 16 tokens on each device, of a width of 64.
MODEL = ViT(depth=2, heads=2, scan=True, remat="full")
X = jax.ShapeDtypeStruct((8, 16, 64), jnp.float32)


@pytest.fixture(scope="module")
def exchanged():
    """Bytes of whole arrays that a gradient step exchanges on 8 devices, by kind."""
    mesh = make_mesh(data=1, fsdp=8)
    params = jax.eval_shape(MODEL.init, jax.random.key(0), X)["params"]
    shardings = state_shardings(params, mesh, floor=64 * 64)
    loss = lambda params, x: jnp.mean(jnp.sin(MODEL.apply({"params": params}, x)))
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.grad(loss), in_shardings=(shardings, batch_sharding(mesh)), out_shardings=shardings
        )
        text = step.lower(params, X).compile().as_text()
    sizes = {}
    for collective, amount in read_traffic(text, chips=8).collectives.items():
        sizes[collective.kind] = sizes.get(collective.kind, 0) + amount.bytes
    return sizes


def test_no_activation_changes_devices(exchanged):
    assert "all-to-all" not in exchanged and "collective-permute" not in exchanged


def test_only_weights_are_gathered_forward_and_for_the_gradient(exchanged):
    """A block has 12 * 64 ** 2 weights. Rematerialization gathers them a second time."""
    matrices = 2 * 12 * 64**2 * 4
    assert matrices <= exchanged["all-gather"] <= 3 * matrices
