"""Convolutions and norms of detectors, trained or frozen."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.valid_region import ValidRegion, blank_outside
from segjax.models.layers import LayerNorm
from segjax.ops.convolution import convolve

NORMS = ("none", "frozen_bn", "bn", "gn", "ln")
GROUPS = 32

# Initializers: He et al. 2015 by fan-out, and the uniform one by fan-in that Caffe calls Xavier.
msra = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
caffe_xavier = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def declare_array(
    module: nn.Module, frozen: bool, name: str, init: Callable, shape: tuple[int, ...]
) -> jax.Array:
    """Declares a parameter of a module, or a constant of the same path if it is frozen.

    A constant has no gradient, weight decay, optimizer state or moving average, and does not
    count as a parameter. `segjax.weights.tree.match_collections` moves arrays between the two
    collections for a model with other frozen parts.

    Args:
      module: inside of its compact method.
      frozen: declare a constant.
      name: of the array.
      init: initializer, called with a PRNG key and the shape.
      shape: of the array.

    Returns:
      The array.
    """
    if not frozen:
        return module.param(name, init, shape)
    return module.variable("constants", name, lambda: init(module.make_rng("params"), shape)).value


def number_names(name: str, count: int) -> list[str]:
    """Returns names for several equal modules: name_0, name_1, ... A single one has no number."""
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


class BatchNorm(nn.Module):
    """Batch norm with fixed statistics, which are constants.

    Detectors see too few images at a time to estimate statistics of their own.

    Attributes:
      frozen: scale and bias are constants, too.
      epsilon: added to the variance.
      dtype: of the output.
    """

    frozen: bool = False
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes [..., C] over the last axis."""
        shape = x.shape[-1:]
        scale = declare_array(self, self.frozen, "scale", nn.initializers.ones, shape)
        bias = declare_array(self, self.frozen, "bias", nn.initializers.zeros, shape)
        mean = declare_array(self, True, "mean", nn.initializers.zeros, shape)
        variance = declare_array(self, True, "variance", nn.initializers.ones, shape)
        # Merged with the statistics, the norm is one multiplication and one sum.
        scale = scale * jax.lax.rsqrt(variance + self.epsilon)
        return (x.astype(jnp.float32) * scale + (bias - mean * scale)).astype(self.dtype)


class GroupNorm(nn.Module):
    """Group norm (arXiv 1803.08494) over 32 groups of at least two channels.

    Statistics are float32.

    Attributes:
      frozen: scale and bias are constants.
      epsilon: added to the variance.
      dtype: of the output.
    """

    frozen: bool = False
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, region: ValidRegion | None = None) -> jax.Array:
        """Normalizes [B, h, w, C] over the valid cells and the channels of each group."""
        batch, *_, channels = x.shape
        scale = declare_array(self, self.frozen, "scale", nn.initializers.ones, (channels,))
        bias = declare_array(self, self.frozen, "bias", nn.initializers.zeros, (channels,))
        groups = min(GROUPS, channels // 2)
        grouped = x.astype(jnp.float32).reshape(batch, -1, groups, channels // groups)
        inside = None if region is None else region.mask(x.shape[1:3]).reshape(batch, -1, 1, 1)
        mean = lambda values: jnp.mean(values, axis=(1, 3), keepdims=True, where=inside)
        centered = grouped - mean(grouped)
        variance = mean(centered**2)
        out = (centered * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (out * scale + bias).astype(self.dtype)


class Conv(nn.Module):
    """Convolution, norm and ReLU, padded equally on all sides as in PyTorch.

    The kernel is [size, size, in, out]. There is a bias if there is no norm. A 1x1 convolution is
    computed as one matrix product, whose gradient is several times faster on CPUs.

    Outside of a valid region the input counts as 0. The output there is arbitrary.

    Attributes:
      features: output channels.
      size: side of the kernel, odd.
      stride: on both axes.
      norm: one of `NORMS`.
      epsilon: of the norm.
      relu: apply a ReLU at the end.
      frozen: all arrays are constants, see `declare_array`.
      kernel_init: initializer of the kernel.
      dtype: of the computation.
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
    def __call__(self, x: jax.Array, region: ValidRegion | None = None) -> jax.Array:
        """Maps [B, h, w, C] to [B, ceil(h / stride), ceil(w / stride), features]."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = declare_array(self, self.frozen, "kernel", self.kernel_init, shape)
        kernel, x = kernel.astype(self.dtype), x.astype(self.dtype)
        # A 1x1 convolution is a matrix product over cells.
        if self.size == 1:
            x = x[:, :: self.stride, :: self.stride]
            x = (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], self.features)
        else:
            x = convolve(blank_outside(x, region), kernel, self.stride)
        if self.norm == "none":
            zeros, shape = nn.initializers.zeros, (self.features,)
            x = x + declare_array(self, self.frozen, "bias", zeros, shape).astype(self.dtype)
        else:
            # Of the norms, only this one mixes cells.
            x = self._norm()(x, region) if self.norm == "gn" else self._norm()(x)
        return jax.nn.relu(x) if self.relu else x

    def _norm(self) -> nn.Module:
        """Creates the submodule `norm`."""
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
    """Pools the maximum of 3x3 cells around every second cell.

    It is the maximum of nine shifted maps. On CPUs the gradient takes a sixth of the time of that
    of `nn.max_pool`, which searches for the maxima again.

    Args:
      x: [B, h, w, C].

    Returns:
      [B, ceil(h / 2), ceil(w / 2), C].
    """
    height, width = x.shape[1:3]
    lowest = jnp.array(-jnp.inf, x.dtype)
    padded = jax.lax.pad(x, lowest, [(0, 0, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)])
    # The maximum over the nine offsets of a 3x3 window
    rows, columns = -(-height // 2), -(-width // 2)
    out = None
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2]
            out = shifted if out is None else jnp.maximum(out, shifted)
    return out
