"""Convolution whose gradient CPUs can compute fast, too."""

import functools

import jax
import jax.numpy as jnp

_NUMBERS = ("NHWC", "HWIO", "NHWC")
_THIN = (
    32  # channels: below, a row of the kernel goes into one product, lest its products be too thin
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Convolution with the same padding on all sides, as torch has it.

    On a CPU the kernel's gradient is computed as one matrix product for each of its cells: XLA's own, which convolves
    the maps with one another, takes up to six times as long there (docs/results/speed.md). Reverse mode only.

    Args:
      x: [B, h, w, C]. kernel: [size, size, C, features], size odd.

    Returns:
      [B, ceil(h / stride), ceil(w / stride), features].
    """
    return _convolved(x, kernel, stride)


def _convolved(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same with the gradients that XLA has for it."""
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_NUMBERS
    )


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolved(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    _, to_x = jax.vjp(lambda x: _convolved(x, kernel, stride), x)
    as_xla_has_it = lambda x, gradient: jax.vjp(lambda k: _convolved(x, k, stride), kernel)[1](
        gradient
    )[0]
    by_products = functools.partial(_products, size=kernel.shape[0], stride=stride)
    to_kernel = jax.lax.platform_dependent(x, gradient, cpu=by_products, default=as_xla_has_it)
    return to_x(gradient)[0], to_kernel


def _products(x: jax.Array, gradient: jax.Array, *, size: int, stride: int) -> jax.Array:
    """The kernel's gradient [size, size, C, features]: what each of its cells sees, times what came of it.

    In a loop, so that one copy of the map is alive at a time.
    """
    batch, *_, channels = x.shape
    rows, columns, features = gradient.shape[1:]
    margin, gradient = size // 2, gradient.reshape(-1, features)
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    together = size if channels < _THIN else 1

    def product(place: jax.Array) -> jax.Array:
        corner = (0, place * together // size, place * together % size, 0)
        tall, wide = stride * (rows - 1) + 1, stride * (columns - 1) + 1
        seen = jax.lax.dynamic_slice(x, corner, (batch, tall, wide + together - 1, channels))[
            :, ::stride
        ]
        cells = jnp.concatenate(
            [seen[:, :, k : k + wide : stride] for k in range(together)], axis=-1
        )
        return cells.reshape(-1, together * channels).T @ gradient

    products = jax.lax.map(product, jnp.arange(size * size // together))
    return products.reshape(size, size, channels, features)


convolve.defvjp(_forward, _backward)
