"""Scaling of gradients in the backward pass, as Cascade R-CNN does between its stages."""

import functools

import jax


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scale_gradient(x: jax.Array, factor: float) -> jax.Array:
    """Returns x, and multiplies the gradient that flows back through it by a factor.

    Example:
      >>> jax.grad(lambda x: scale_gradient(x, 0.5) ** 2)(3.0)
      Array(3., dtype=float32, weak_type=True)

    Args:
      x: Any array.
      factor: Factor of the gradient.
    """
    return x


def _forward(x: jax.Array, factor: float) -> tuple[jax.Array, None]:
    return x, None


def _backward(factor: float, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient * factor,)


scale_gradient.defvjp(_forward, _backward)
