"""The few layers that every model here is made of."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.ops.sharded_dense import affine, whole


def gelu(x: jax.Array) -> jax.Array:
    """The exact, erf form, which the published models use; `jax.nn.gelu` takes the dearer erfc."""
    return x * (
        0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)
    )  # a NumPy scalar would turn bfloat16 into float32


small_normal = nn.initializers.truncated_normal(0.02)
# torch draws a convolution's kernel by its fan-in, a transposed convolution's by its fan-out.
torch_conv = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
torch_transposed_conv = nn.initializers.variance_scaling(
    1 / 3, "fan_out", "uniform", in_axis=0, out_axis=-1
)


class Linear(nn.Module):
    """Dense over the last axis, computed as one two-dimensional product.

    Contracting a flattened matrix makes the weight gradient a plain matrix product, several times faster on CPUs
    than contracting over many batch axes. Parameters are those of `nn.Dense`: kernel [in, out], bias [out].
    """

    features: int
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = small_normal

    @nn.compact
    def stored(self, width: int) -> tuple[jax.Array, jax.Array | None]:
        """(kernel [width, features], bias [features] or None) as they are, for inputs of that width."""
        kernel = self.param("kernel", self.kernel_init, (width, self.features))
        return kernel, self.param(
            "bias", nn.initializers.zeros, (self.features,)
        ) if self.use_bias else None

    def weights(self, width: int) -> tuple[jax.Array, jax.Array | float]:
        """(kernel, bias or 0.0) in `dtype`, the kernel whole on every device; for products of another form than a call,
        which `gradients_in` does not reach."""
        kernel, bias = self.stored(width)
        return whole(kernel.astype(self.dtype)), 0.0 if bias is None else bias.astype(self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] -> [..., features]."""
        weights = self.stored(x.shape[-1])
        if self.is_initializing():  # parameters stay where they are drawn
            return jnp.zeros((*x.shape[:-1], self.features), self.dtype)
        return affine(x.astype(self.dtype), *weights)


class LayerNorm(nn.Module):
    """Normalisation over the last axis, so of SAM's maps too: statistics in float32, result in `dtype`."""

    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.mean(centred**2, axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)


class Mlp(nn.Module):
    """Linear layers with an activation between them, none after the last. Parameters: layer_0, layer_1, ..."""

    widths: Sequence[int]
    activation: Callable = gelu
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = small_normal

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.widths):
            x = Linear(width, dtype=self.dtype, kernel_init=self.kernel_init, name=f"layer_{i}")(x)
            if i + 1 < len(self.widths):
                x = self.activation(x)
        return x


class Upscale(nn.Module):
    """Transposed convolution 2x2 of stride 2 without its last step, putting the four cells of each cell in place.

    Norms, activations and products with a filter treat cells alike, so a decoder can put only its few masks in place,
    not its many channels. Kernel [in, 2, 2, out], bias [out].
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = torch_transposed_conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., 4, features], the four in the order of `depth_to_space`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], 2, 2, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        out = affine(x.astype(self.dtype), kernel.reshape(x.shape[-1], -1), jnp.tile(bias, 4))
        return out.reshape(*x.shape[:-1], 4, self.features)


def drop_path(x: jax.Array, rate: jax.Array | float, key: jax.Array | None) -> jax.Array:
    """Stochastic depth (arXiv 1603.09382): drops a branch for whole examples, scales the kept ones by 1 / (1 - rate).

    Args:
      x: [B, ...], the branch.
      rate: probability of dropping; may be traced.
      key: None keeps every branch (evaluation).
    """
    if key is None:
        return x
    keep = 1.0 - rate
    kept = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(kept, x / keep, 0).astype(x.dtype)
