"""Convolution whose gradient is fast on CPUs, too."""

import functools

import jax
import jax.numpy as jnp

_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Below this number of channels, a whole row of the kernel enters one product. Products of single
# cells would be too thin to be fast.
_THIN = 32


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolves a map with equal padding on all sides, as PyTorch does.

    On a CPU the kernel's gradient is computed as one matrix product for each of its cells. XLA's
    own gradient convolves the maps with one another and takes up to six times as long there
    (docs/results/speed.md). Reverse mode only.

    Args:
      x: [B, h, w, C].
      kernel: [size, size, C, features], of odd size.
      stride: on both axes.

    Returns:
      [B, ceil(h / stride), ceil(w / stride), features].
    """
    return _convolve_by_xla(x, kernel, stride)


def _convolve_by_xla(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Computes `convolve` with the gradients of XLA."""
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_NUMBERS
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve_by_xla(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    _, to_x = jax.vjp(lambda x: _convolve_by_xla(x, kernel, stride), x)
    kernel_gradient_of_xla = lambda x, gradient: jax.vjp(
        lambda k: _convolve_by_xla(x, k, stride), kernel
    )[1](gradient)[0]
    # The choice is made when the program is compiled for its platform.
    kernel_gradient = functools.partial(_multiply_cells, size=kernel.shape[0], stride=stride)
    to_kernel = jax.lax.platform_dependent(
        x, gradient, cpu=kernel_gradient, default=kernel_gradient_of_xla
    )
    return to_x(gradient)[0], to_kernel


def _multiply_cells(x: jax.Array, gradient: jax.Array, *, size: int, stride: int) -> jax.Array:
    """Computes the kernel's gradient, [size, size, C, features].

    The gradient of a cell is the product of the inputs under that cell and the gradient of the
    outputs. A loop keeps one copy of the map alive at a time.
    """
    batch, *_, channels = x.shape
    rows, columns, features = gradient.shape[1:]
    margin, gradient = size // 2, gradient.reshape(-1, features)
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    together = size if channels < _THIN else 1

    def multiply(turn: jax.Array) -> jax.Array:
        corner = (0, turn * together // size, turn * together % size, 0)
        tall, wide = stride * (rows - 1) + 1, stride * (columns - 1) + 1
        inputs = jax.lax.dynamic_slice(x, corner, (batch, tall, wide + together - 1, channels))[
            :, ::stride
        ]
        cells = jnp.concatenate(
            [inputs[:, :, k : k + wide : stride] for k in range(together)], axis=-1
        )
        return cells.reshape(-1, together * channels).T @ gradient

    products = jax.lax.map(multiply, jnp.arange(size * size // together))
    return products.reshape(size, size, channels, features)


convolve.defvjp(_forward, _backward)
