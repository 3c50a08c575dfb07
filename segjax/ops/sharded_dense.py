"""Products with weights that devices share: where these lie, and in which type their gradients are added up."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

_SUMS: contextvars.ContextVar[str] = contextvars.ContextVar(
    "the type of gradients' sums", default=""
)


@contextlib.contextmanager
def gradients_in(dtype: str) -> Iterator[None]:
    """Functions traced in here have the gradients of their `affine` weights in this type: "float32", or "", the type
    of the products.

    A product adds up in float32 in any case, but rounds its result, and what devices exchange to add up their gradients
    is the result: in bfloat16 half of the bytes, and a rounding at each device that a sum passes.

    Raises ValueError for another type.
    """
    if dtype not in ("", "float32"):
        raise ValueError(
            f"gradients are added up in {dtype!r}; expected 'float32', or '' for the products' own type"
        )
    token = _SUMS.set(dtype)
    try:
        yield
    finally:
        _SUMS.reset(token)


def affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x @ kernel + bias in the type of x, the kernel whole on every device; reverse mode only under `gradients_in`.

    Args:
      x: [..., in]. kernel: [in, out]. bias: [out].
    """
    rows = x.reshape(-1, x.shape[-1])
    if _SUMS.get():
        out = _affine(rows, kernel, bias, jnp.dtype(_SUMS.get()))
    else:
        out = _plain(rows, whole(kernel.astype(x.dtype)), bias)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


def _plain(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    return x @ kernel if bias is None else x @ kernel + bias.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _affine(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, sums: jnp.dtype) -> jax.Array:
    return _plain(x, whole(kernel.astype(x.dtype)), bias)


def _affine_forward(x, kernel, bias, sums):
    gathered = whole(kernel.astype(x.dtype))
    return _plain(x, gathered, bias), (x, gathered, jnp.zeros_like(kernel, shape=()), bias)


def _affine_backward(sums, saved, gradient):
    x, kernel, stored, bias = saved
    of_kernel = jax.lax.dot_general(
        x, gradient, (((0,), (0,)), ((), ())), preferred_element_type=sums
    )
    of_bias = None if bias is None else gradient.sum(0, dtype=sums).astype(bias.dtype)
    return gradient @ kernel.T, of_kernel.astype(stored.dtype), of_bias


_affine.defvjp(_affine_forward, _affine_backward)


@jax.custom_vjp
def whole(weights: jax.Array) -> jax.Array:
    """Weights as they are, but whole on every device of the mesh that is set; without a mesh nothing happens.

    Parameters that are split over devices (FSDP) meet activations whose batch is split over the same ones. Left to
    itself XLA gathers whichever of the two is smaller by its reckoning, which for a picture of 4096 tokens was the
    activations: four times the traffic, compiled for 256 chips. Gradients are free to lie as they come.
    """
    return _constrained(weights)


def _constrained(weights: jax.Array) -> jax.Array:
    if jax.sharding.get_abstract_mesh().empty:
        return weights
    return jax.lax.with_sharding_constraint(weights, PartitionSpec())


whole.defvjp(lambda weights: (_constrained(weights), None), lambda _, gradient: (gradient,))
