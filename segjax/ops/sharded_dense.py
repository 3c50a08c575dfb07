"""Products with weights that are sharded over devices (FSDP), and the dtype of gradients."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

_REDUCE_DTYPE: contextvars.ContextVar[str] = contextvars.ContextVar(
    "dtype in which gradients are summed over devices", default=""
)


@contextlib.contextmanager
def reduce_gradients_in(dtype: str) -> Iterator[None]:
    """Sets the dtype of the gradients of `affine` weights for functions traced inside the block.

    A product accumulates in float32 in any case, but it rounds its result, and devices exchange
    these results to sum their gradients. In bfloat16 that is half of the bytes, and one rounding
    for each device that a sum passes. Use "float32" to avoid the roundings.

    This is a context variable, and it lives here, for a reason. The training step sets it
    (`config.mesh.reduce_dtype`) and the layers of models read it. `training` imports no model and
    models import `ops` alone, so `ops` is the only room that both see. As an attribute of every
    module, a property of the mesh would become a part of every model's config.

        with reduce_gradients_in("float32"):
            jax.grad(lambda kernel: affine(x, kernel).sum())(kernel)

    Args:
      dtype: "float32", or "" for the dtype of the products.

    Raises:
      ValueError: Another dtype.
    """
    if dtype not in ("", "float32"):
        raise ValueError(
            f"gradients are summed in {dtype!r}; expected 'float32', or '' for the dtype of the "
            "products"
        )
    token = _REDUCE_DTYPE.set(dtype)
    try:
        yield
    finally:
        _REDUCE_DTYPE.reset(token)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Computes x @ kernel + bias in the dtype of x, with the kernel replicated on every device.

    Under `reduce_gradients_in` only reverse-mode differentiation works.

        affine(jnp.ones((2, 5, 3)), jnp.ones((3, 4)), jnp.zeros(4))  # [2, 5, 4], all 3.0

    Args:
      x: [..., in].
      kernel: [in, out].
      bias: [out], or None.

    Returns:
      [..., out], in the dtype of x.
    """
    rows = x.reshape(-1, x.shape[-1])
    if dtype := _REDUCE_DTYPE.get():
        out = _affine(rows, kernel, bias, jnp.dtype(dtype))
    else:
        out = _multiply(rows, replicate(kernel.astype(x.dtype)), bias)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def _multiply(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    return x @ kernel if bias is None else x @ kernel + bias.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    """Computes x @ kernel + bias. The gradients of kernel and bias are summed in `dtype`."""
    return _multiply(x, replicate(kernel.astype(x.dtype)), bias)


def _affine_forward(x, kernel, bias, dtype):
    # The scalar of zeros only remembers the kernel's dtype
    gathered = replicate(kernel.astype(x.dtype))
    return _multiply(x, gathered, bias), (x, gathered, jnp.zeros_like(kernel, shape=()), bias)


def _affine_backward(dtype, saved, gradient):
    # Sums over the rows are those that devices add up, so only they need the wider dtype
    x, kernel, like_kernel, bias = saved
    kernel_gradient = jax.lax.dot_general(
        x, gradient, (((0,), (0,)), ((), ())), preferred_element_type=dtype
    )
    bias_gradient = None if bias is None else gradient.sum(0, dtype=dtype).astype(bias.dtype)
    return gradient @ kernel.T, kernel_gradient.astype(like_kernel.dtype), bias_gradient


_affine.defvjp(_affine_forward, _affine_backward)


@jax.custom_vjp
def replicate(weights: jax.Array) -> jax.Array:
    """Gathers weights on every device of the current mesh. Without a mesh it does nothing.

    Parameters that are sharded over devices (FSDP) meet activations whose batch is sharded over the
    same devices. On its own, XLA gathers whichever it takes for the smaller of the two. For images
    of 4096 tokens, compiled for 256 chips, it gathered the activations: four times the traffic. The
    sharding of gradients is left to XLA.

        replicate(jnp.ones((3, 4)))  # the same array
    """
    return _constrain(weights)


def _constrain(weights: jax.Array) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return weights
    return jax.lax.with_sharding_constraint(weights, PartitionSpec())


replicate.defvjp(lambda weights: (_constrain(weights), None), lambda _, gradient: (gradient,))
