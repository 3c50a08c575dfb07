"""Layers that all models share: linear layers, norms, MLPs, upscaling and drop path."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.ops.sharded_dense import affine, replicate


def gelu(x: jax.Array) -> jax.Array:
    """Computes the exact GELU, x * (1 + erf(x / sqrt(2))) / 2, as the published models do.

    `jax.nn.gelu` uses erfc, which is more expensive.
    """
    # 0.5**0.5 is a Python number: a NumPy scalar would turn bfloat16 into float32.
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


def quick_gelu(x: jax.Array) -> jax.Array:
    """Computes x * sigmoid(1.702 x), the approximation of GELU in OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


# "gelu" is exact. Weights trained with one activation give worse results with another.
ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu, "silu": jax.nn.silu}


def find_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation of a name. Raises ValueError for an unknown one."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


small_normal = nn.initializers.truncated_normal(0.02)
# torch scales a convolution's kernel by its fan-in, a transposed convolution's by its fan-out.
torch_conv = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
torch_transposed_conv = nn.initializers.variance_scaling(
    1 / 3, "fan_out", "uniform", in_axis=0, out_axis=-1
)


class Linear(nn.Module):
    """Dense layer over the last axis, computed as one two-dimensional product.

    All other axes are flattened, so the weight gradient is a plain matrix product. On CPUs this is
    several times faster than a contraction over many batch axes. Parameters are those of
    `nn.Dense`: kernel [in, out], bias [out].

    Attributes:
      features: output channels.
      use_bias: add a bias.
      dtype: of the computation.
      kernel_init: initializer of the kernel.
    """

    features: int
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = small_normal

    @nn.compact
    def get_parameters(self, width: int) -> tuple[jax.Array, jax.Array | None]:
        """Returns (kernel [width, features], bias [features] or None) for inputs of that width."""
        kernel = self.param("kernel", self.kernel_init, (width, self.features))
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,))

    def weights(self, width: int) -> tuple[jax.Array, jax.Array | float]:
        """Returns (kernel, bias or 0.0) in `dtype`, the kernel replicated on every device.

        For callers that compute another product than `__call__`. Their gradients are not affected
        by `segjax.ops.sharded_dense.reduce_gradients_in`.
        """
        kernel, bias = self.get_parameters(width)
        return replicate(kernel.astype(self.dtype)), 0.0 if bias is None else bias.astype(
            self.dtype
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., width] to [..., features]."""
        weights = self.get_parameters(x.shape[-1])
        if self.is_initializing():  # no product, so that parameters stay where they are drawn
            return jnp.zeros((*x.shape[:-1], self.features), self.dtype)
        return affine(x.astype(self.dtype), *weights)


class LayerNorm(nn.Module):
    """Layer normalization over the last axis.

    Attributes:
      epsilon: added to the variance.
      dtype: of the result. Statistics are float32.
    """

    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        # Statistics in float32, whatever the dtype of the computation
        x = x.astype(jnp.float32)
        centered = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.mean(centered**2, axis=-1, keepdims=True)
        return (centered * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)


class Mlp(nn.Module):
    """Multilayer perceptron. Parameters: layer_0, layer_1, ...

    Attributes:
      widths: output channels of each layer.
      activation: applied after each layer but the last.
      dtype: of the computation.
      kernel_init: initializer of the kernels.
      output_init: initializer of the last kernel. None: `kernel_init`.
      gated: layers but the last compute activation(a) * b from twice the channels, a before b
        (SwiGLU with activation "silu", arXiv 2002.05202).
    """

    widths: Sequence[int]
    activation: Callable = gelu
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = small_normal
    output_init: Callable | None = None
    gated: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.widths):
            is_last = i + 1 == len(self.widths)
            init = self.output_init if is_last and self.output_init else self.kernel_init
            channels = width * (1 + (self.gated and not is_last))
            x = Linear(channels, dtype=self.dtype, kernel_init=init, name=f"layer_{i}")(x)
            if self.gated and not is_last:
                x, factor = jnp.split(x, 2, axis=-1)
                x = self.activation(x) * factor
            elif not is_last:
                x = self.activation(x)
        return x


class Upscale(nn.Module):
    """Transposed 2x2 convolution of stride 2, without the final rearrangement of cells.

    Each input cell becomes four output cells on an axis of their own. `depth_to_space` puts them in
    place. Norms, activations and products treat all cells alike, so a decoder rearranges its few
    masks instead of its many channels. Parameters: kernel [in, 2, 2, out], bias [out].

    Attributes:
      features: output channels.
      dtype: of the computation.
      kernel_init: initializer of the kernel.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = torch_transposed_conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., C] to [..., 4, features], the four cells in the order of `depth_to_space`."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], 2, 2, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # One product computes all four cells
        out = affine(x.astype(self.dtype), kernel.reshape(x.shape[-1], -1), jnp.tile(bias, 4))
        return out.reshape(*x.shape[:-1], 4, self.features)


def drop_path(x: jax.Array, rate: jax.Array | float, key: jax.Array | None) -> jax.Array:
    """Applies drop path (stochastic depth, arXiv 1603.09382) to a residual branch.

    The branch of an example is dropped with probability `rate`, else divided by 1 - rate.

    Example:
      >>> drop_path(jnp.ones((2, 3)), 0.5, None).shape
      (2, 3)

    Args:
      x: [B, ...], output of the branch.
      rate: probability of dropping. It may be traced.
      key: typed PRNG key. None: nothing is dropped (evaluation).

    Returns:
      An array of the same shape and dtype.
    """
    if key is None:
        return x
    keep = 1.0 - rate
    mask = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(mask, x / keep, 0).astype(x.dtype)
