"""Feature pyramids (arXiv 1612.03144): maps of one width for all strides, each with what the coarser ones know."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.layers import Conv, caffe_xavier
from segjax.models.layers import LayerNorm, Upscale, gelu, torch_conv
from segjax.models.vit import encode_patches
from segjax.ops.resize import depth_to_space


class FeaturePyramid(nn.Module):
    """C2 to C5 -> P2 to P5, [B, h, w, features] each: a projection of each, plus the coarser level, smoothed.

    Modules are lateral_2 to lateral_5 and output_2 to output_5; biases where there is no norm, and no ReLU.
    """

    features: int = 256
    norm: str = "none"
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        options = dict(
            norm=self.norm, epsilon=self.epsilon, kernel_init=caffe_xavier, dtype=self.dtype
        )
        levels, above = [], None
        for level in reversed(range(2, 2 + len(maps))):
            x = Conv(self.features, 1, name=f"lateral_{level}", **options)(maps[level - 2])
            above = x if above is None else x + nearest_to(above, x.shape[1:3])
            levels.insert(0, Conv(self.features, 3, name=f"output_{level}", **options)(above))
        return tuple(levels)


def nearest_to(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Every cell four times, [B, h, w, C] -> [B, *grid, C]; a grid of odd sizes cuts off the last row or column.

    That is torch's "nearest" to any size that halving with rounding up can have come from.
    """
    return x.repeat(2, axis=1).repeat(2, axis=2)[:, : grid[0], : grid[1]]


def with_p6(levels: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The levels and one more: every second cell of the last one, without a convolution."""
    return (*levels, levels[-1][:, ::2, ::2])


class VitBackbone(nn.Module):
    """Normalised images [B, H, W, 3] -> one map [B, H/patch, W/patch, width], as SAM's image encoder before its neck.

    Attributes:
      trunk: options of `ViT`. grid: (h, w) of the learned positions; for other pictures they are resized bicubically.
    """

    trunk: dict
    width: int
    patch: int
    grid: tuple[int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        return (encode_patches(self, images, train=train, cubic=True),)


class SimplePyramid(nn.Module):
    """A map of stride 16 -> P2 to P5 [B, h, w, features]: enlarged 4 and 2 times, as it is, and halved.

    All of it is a transposed convolution's or a projection's work on single cells until the 3x3 convolutions, so cells
    are put in place right before these. Modules are upscale_2a, norm_2, upscale_2b, upscale_3; lateral_{2..5} and
    output_{2..5}, each with a LayerNorm.
    """

    features: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        (x,) = maps
        width = x.shape[-1]
        conv = lambda size, name: Conv(
            self.features,
            size,
            norm="ln",
            epsilon=1e-6,
            kernel_init=torch_conv,
            dtype=self.dtype,
            name=name,
        )
        upscale = lambda share, name: Upscale(width // share, self.dtype, name=name)

        large = gelu(LayerNorm(dtype=self.dtype, name="norm_2")(upscale(2, "upscale_2a")(x)))
        large = conv(1, "lateral_2")(upscale(4, "upscale_2b")(large))  # 4 cells in each of 4 cells
        large = depth_to_space(depth_to_space(_channels(large, 2), 2), 2)
        double = depth_to_space(_channels(conv(1, "lateral_3")(upscale(2, "upscale_3")(x)), 1), 2)
        half = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        half = half.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, width).max(axis=(2, 4))
        levels = (large, double, conv(1, "lateral_4")(x), conv(1, "lateral_5")(half))
        return tuple(conv(3, f"output_{level}")(y) for level, y in enumerate(levels, start=2))


def _channels(x: jax.Array, axes: int) -> jax.Array:
    """[B, h, w, (4,) * axes, C] -> [B, h, w, 4 ** axes * C]."""
    return x.reshape(*x.shape[:3], 4**axes * x.shape[-1])
