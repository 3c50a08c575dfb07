"""Feature pyramids (arXiv 1612.03144; arXiv 2203.16527, section 3) and the ViT backbone."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.layers import Conv, caffe_xavier
from segjax.models.detection.valid_region import ValidRegion
from segjax.models.layers import LayerNorm, Upscale, gelu, torch_conv
from segjax.models.vit import encode_patches
from segjax.ops.resize import depth_to_space


class FeaturePyramid(nn.Module):
    """Feature pyramid network (FPN) on the four maps of a ResNet.

    Every level is a 1x1 projection of its map plus the enlarged coarser level, smoothed by a 3x3
    convolution. Submodules are `lateral_2` to `lateral_5` and `output_2` to `output_5`. They have
    a bias if there is no norm, and no ReLU.

    Attributes:
      features: channels of all levels.
      norm: a key of `segjax.models.detection.layers.NORMS`.
      epsilon: of the norm.
      dtype: of the computation.
    """

    features: int = 256
    norm: str = "none"
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, maps: tuple[jax.Array, ...], region: ValidRegion | None = None
    ) -> tuple[jax.Array, ...]:
        """Combines C2 to C5, [B, h, w, C] each, into P2 to P5, [B, h, w, features] each."""
        options = dict(
            norm=self.norm, epsilon=self.epsilon, kernel_init=caffe_xavier, dtype=self.dtype
        )
        levels, above = [], None
        # From the coarsest level down
        for level in reversed(range(2, 2 + len(maps))):
            x = Conv(self.features, 1, name=f"lateral_{level}", **options)(maps[level - 2], region)
            above = x if above is None else x + upsample_nearest(above, x.shape[1:3])
            smooth = Conv(self.features, 3, name=f"output_{level}", **options)
            levels.insert(0, smooth(above, region))
        return tuple(levels)


def upsample_nearest(x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Doubles a map by repeating its cells, and crops it to a grid.

    It equals PyTorch's "nearest" interpolation for all sizes that halving with rounding up gives.

    Args:
      x: [B, h, w, C].
      grid: (height, width) of the output, 2h or 2h - 1 and 2w or 2w - 1.

    Returns:
      [B, *grid, C].
    """
    return x.repeat(2, axis=1).repeat(2, axis=2)[:, : grid[0], : grid[1]]


def append_p6(levels: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Appends the level P6: every second cell of P5 on each axis, without a convolution."""
    return (*levels, levels[-1][:, ::2, ::2])


class VitBackbone(nn.Module):
    """ViT backbone of ViTDet, the same as SAM's image encoder without its neck.

    Attributes:
      trunk: keyword arguments of `ViT`. A FrozenDict, so that the module can be hashed.
      width: channels of the tokens.
      patch: side of a patch in pixels.
      grid: (h, w) of the learned positions. For other images they are resized bicubically.
      dtype: of the computation.
    """

    trunk: dict
    width: int
    patch: int
    grid: tuple[int, int]
    dtype: jnp.dtype = jnp.float32

    @property
    def depth(self) -> int:
        """Returns the number of transformer blocks."""
        return self.trunk["depth"]

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, ...]:
        """Encodes normalized images into one map.

        Args:
          images: [B, H, W, 3], normalized.
          train: apply drop path, which needs the PRNG stream "drop_path".

        Returns:
          One map, [B, H/patch, W/patch, width].
        """
        return (encode_patches(self, images, train=train, cubic=True),)


class SimplePyramid(nn.Module):
    """Simple feature pyramid of ViTDet, made of one map of stride 16.

    The map is enlarged 4 and 2 times, taken as it is, and halved. Until the 3x3 convolutions
    everything acts on single cells, so new cells move to their positions right before these.
    Submodules are `upscale_2a`, `norm_2`, `upscale_2b`, `upscale_3`, and `lateral_{2..5}` and
    `output_{2..5}`, each with a LayerNorm.

    Attributes:
      features: channels of all levels.
      dtype: of the computation.
    """

    features: int = 256
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """Turns one map [B, h, w, C] into P2 to P5, [B, 4h, 4w, features] to [B, h/2, w/2, ...]."""
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

        # P2: every cell becomes 4, and each of these 4 again
        large = gelu(LayerNorm(dtype=self.dtype, name="norm_2")(upscale(2, "upscale_2a")(x)))
        large = conv(1, "lateral_2")(upscale(4, "upscale_2b")(large))
        large = depth_to_space(depth_to_space(_merge_cells(large, 2), 2), 2)
        # P3
        double = conv(1, "lateral_3")(upscale(2, "upscale_3")(x))
        double = depth_to_space(_merge_cells(double, 1), 2)
        # P5, by 2x2 max pooling that ignores an odd last row or column
        half = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
        half = half.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, width).max(axis=(2, 4))
        levels = (large, double, conv(1, "lateral_4")(x), conv(1, "lateral_5")(half))
        return tuple(conv(3, f"output_{level}")(y) for level, y in enumerate(levels, start=2))


def _merge_cells(x: jax.Array, axes: int) -> jax.Array:
    """Merges the axes of new cells into channels: [B, h, w, (4,) * axes, C] -> [B, h, w, C']."""
    return x.reshape(*x.shape[:3], 4**axes * x.shape[-1])
