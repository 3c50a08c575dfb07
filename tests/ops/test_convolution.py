"""The convolution and its gradients against XLA's, and the program of each platform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.convolution import convolve


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def plain(x, kernel, stride):
    margin = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(margin, margin)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


# Sides that the stride divides or not, numbers of channels below and above the limit of a row.
@pytest.mark.parametrize(
    ("grid", "channels", "size", "stride"),
    [
        ((9, 12), 5, 3, 1),
        ((9, 12), 40, 3, 2),
        ((8, 8), 3, 7, 2),
        ((5, 5), 33, 5, 1),
        ((1, 2), 4, 3, 2),
    ],
)
def test_gradients_equal_those_of_xla(grid, channels, size, stride):
    x, kernel = drawn((2, *grid, channels), (size, size, channels, 6))
    loss = lambda convolution, x, kernel: jnp.sum(jnp.sin(convolution(x, kernel, stride)))
    got, want = (
        jax.jit(jax.grad(functools.partial(loss, of), (0, 1)))(x, kernel)
        for of in (convolve, plain)
    )
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max())


def test_the_gradient_of_one_cell_by_hand():
    """A kernel of one cell is a product. Its gradient is the sum over positions of their inputs."""
    x, kernel = jnp.arange(8.0).reshape(1, 2, 4, 1), jnp.zeros((3, 3, 1, 1)).at[1, 1].set(2.0)
    np.testing.assert_array_equal(convolve(x, kernel)[..., 0], 2 * x[..., 0])
    gradient = jax.grad(lambda kernel: convolve(x, kernel).sum())(kernel)[..., 0, 0]
    # From the second row, cell (0, 0) reads 0, 1, 2 of the first. From the first row, cell (2, 2)
    # reads 5, 6, 7 of the second.
    assert (
        gradient[0, 0] == 0 + 1 + 2
        and gradient[1, 1] == sum(range(8))
        and gradient[2, 2] == 5 + 6 + 7
    )


def test_bfloat16_keeps_its_dtype():
    x, kernel = (value.astype(jnp.bfloat16) for value in drawn((1, 6, 6, 40), (3, 3, 40, 8)))
    gradients = jax.grad(lambda x, kernel: convolve(x, kernel).astype(jnp.float32).sum(), (0, 1))(
        x, kernel
    )
    assert all(gradient.dtype == jnp.bfloat16 for gradient in gradients)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 2), ("cuda", 3), ("tpu", 3)])
def test_accelerators_use_a_convolution_for_the_kernel_gradient(platform, convolutions):
    x, kernel = drawn((1, 6, 6, 4), (3, 3, 4, 8))
    step = jax.jit(jax.grad(lambda x, kernel: jnp.sum(convolve(x, kernel) ** 2), (0, 1)))
    program = step.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert program.count("stablehlo.convolution") == convolutions
