"""ViTDet (arXiv 2203.16527): a plain vision transformer as a backbone, and a pyramid from its last map alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.convolution import Conv
from segjax.models.layers import LayerNorm, Upscale, gelu, torch_conv
from segjax.models.vit import encode_patches
from segjax.ops.resize import depth_to_space


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
            self.features, size, norm="ln", epsilon=1e-6, kernel_init=torch_conv, dtype=self.dtype, name=name
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
