"""Of parameters that are split over devices the weights are gathered, and never the activations."""

import jax
import jax.numpy as jnp
import pytest

from segjax.models.vit import ViT
from segjax.scaling.program_text import read_traffic
from segjax.training.sharding import batch_sharding, make_mesh, state_shardings

# Few activations for the size of the weights: 16 tokens on each device, of a width of 64.
MODEL = ViT(depth=2, heads=2, scan=True, remat="full")
X = jax.ShapeDtypeStruct((8, 16, 64), jnp.float32)


@pytest.fixture(scope="module")
def exchanged():
    """{kind of exchange: bytes of whole arrays in a step} of the gradient on 8 devices, blocks split 8 ways."""
    mesh = make_mesh(data=1, fsdp=8)
    params = jax.eval_shape(MODEL.init, jax.random.key(0), X)["params"]
    places = state_shardings(params, mesh, floor=64 * 64)
    loss = lambda params, x: jnp.mean(jnp.sin(MODEL.apply({"params": params}, x)))
    with jax.set_mesh(mesh):
        step = jax.jit(
            jax.grad(loss), in_shardings=(places, batch_sharding(mesh)), out_shardings=places
        )
        text = step.lower(params, X).compile().as_text()
    found = {}
    for collective, amount in read_traffic(text, chips=8).collectives.items():
        found[collective.kind] = found.get(collective.kind, 0) + amount.bytes
    return found


def test_no_activation_changes_devices(exchanged):
    assert "all-to-all" not in exchanged and "collective-permute" not in exchanged


def test_weights_are_gathered_forward_and_for_the_gradient_and_nothing_else_is(exchanged):
    """A block has 12 * 64 ** 2 weights in matrices; forward, and once more where the block is computed again."""
    matrices = 2 * 12 * 64**2 * 4
    assert matrices <= exchanged["all-gather"] <= 3 * matrices
