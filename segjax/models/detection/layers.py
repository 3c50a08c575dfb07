"""Convolution, norm and ReLU as detectors are made of them, trained or frozen."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import LayerNorm
from segjax.ops.convolution import convolve

NORMS = ("none", "frozen_bn", "bn", "gn", "ln")
GROUPS = 32

# He et al. 2015, by the fan-out; and the uniform one by the fan-in that Caffe calls Xavier.
msra = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
caffe_xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def stored(
    module: nn.Module, frozen: bool, name: str, init: Callable, shape: tuple[int, ...]
) -> jax.Array:
    """An array of a module: a parameter or, where frozen, a constant under the same path.

    So what is frozen has no gradient, no decay, no optimizer state and no average, and is not counted among the
    parameters. `segjax.weights.tree.placed` moves arrays to where a model with other frozen parts has them.
    """
    if not frozen:
        return module.param(name, init, shape)
    return module.variable("constants", name, lambda: init(module.make_rng("params"), shape)).value


def numbered(name: str, count: int) -> list[str]:
    """Names of so many equal modules; a single one has no number. (Other libraries name it otherwise, too.)"""
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


class BatchNorm(nn.Module):
    """Batch norm with the statistics that it was trained with: they are constants, and so is the rest where frozen.

    Detectors see too few pictures at once to make statistics of their own.
    """

    frozen: bool = False
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> the same shape."""
        shape = x.shape[-1:]
        scale = stored(self, self.frozen, "scale", nn.initializers.ones, shape)
        bias = stored(self, self.frozen, "bias", nn.initializers.zeros, shape)
        mean = stored(self, True, "mean", nn.initializers.zeros, shape)
        variance = stored(self, True, "variance", nn.initializers.ones, shape)
        scale = scale * jax.lax.rsqrt(variance + self.epsilon)
        return (x.astype(jnp.float32) * scale + (bias - mean * scale)).astype(self.dtype)


class GroupNorm(nn.Module):
    """Group norm (arXiv 1803.08494) over 32 groups of channels, of two at least; statistics in float32."""

    frozen: bool = False
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> the same shape."""
        batch, *_, channels = x.shape
        scale = stored(self, self.frozen, "scale", nn.initializers.ones, (channels,))
        bias = stored(self, self.frozen, "bias", nn.initializers.zeros, (channels,))
        groups = min(GROUPS, channels // 2)
        grouped = x.astype(jnp.float32).reshape(batch, -1, groups, channels // groups)
        centred = grouped - grouped.mean(axis=(1, 3), keepdims=True)
        variance = jnp.mean(centred**2, axis=(1, 3), keepdims=True)
        out = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (out * scale + bias).astype(self.dtype)


class Conv(nn.Module):
    """Convolution with the same padding on all sides, as torch has it, then the norm and the ReLU.

    Kernel [size, size, in, out]; a bias where there is no norm. A convolution 1x1 is computed as one matrix product,
    whose gradient is several times faster on CPUs.

    Attributes:
      norm: one of `NORMS`; epsilon is its. frozen: everything is a constant, see `stored`.
    """

    features: int
    size: int = 3
    stride: int = 1
    norm: str = "none"
    epsilon: float = 1e-5
    relu: bool = False
    frozen: bool = False
    kernel_init: Callable = msra
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, h, w, C] -> [B, ceil(h / stride), ceil(w / stride), features], for odd sizes of the kernel."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = stored(self, self.frozen, "kernel", self.kernel_init, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.size == 1:
            x = x[:, :: self.stride, :: self.stride]
            x = (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], self.features)
        else:
            x = convolve(x, kernel, self.stride)
        if self.norm == "none":
            x = x + stored(
                self, self.frozen, "bias", nn.initializers.zeros, (self.features,)
            ).astype(self.dtype)
        else:
            x = self._norm()(x)
        return jax.nn.relu(x) if self.relu else x

    def _norm(self) -> nn.Module:
        options = dict(epsilon=self.epsilon, dtype=self.dtype, name="norm")
        match self.norm:
            case "frozen_bn":
                return BatchNorm(frozen=True, **options)
            case "bn":
                return BatchNorm(frozen=self.frozen, **options)
            case "gn":
                return GroupNorm(frozen=self.frozen, **options)
            case "ln" if not self.frozen:
                return LayerNorm(**options)
        raise ValueError(
            f"norm {self.norm!r} is unknown{' where frozen' * self.frozen}; choose one of {NORMS}"
        )


def max_pool(x: jax.Array) -> jax.Array:
    """Maximum over 3x3 cells around every second one: [B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), C].

    As the maximum of nine shifted maps: on CPUs its gradient takes a sixth of the time of `nn.max_pool`'s, which looks
    for the winners again.
    """
    height, width = x.shape[1:3]
    lowest = jnp.array(-jnp.inf, x.dtype)
    padded = jax.lax.pad(x, lowest, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    rows, columns = -(-height // 2), -(-width // 2)
    out = None
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
            out = shifted if out is None else jnp.maximum(out, shifted)
    return out
