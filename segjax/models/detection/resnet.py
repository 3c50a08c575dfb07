"""ResNets (arXiv 1512.03385) as backbones of detectors."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.layers import Conv, max_pool
from segjax.models.detection.valid_region import ValidRegion, blank_outside

# Blocks per stage, bottlenecks or not, and the width of the first stage's inner convolutions.
RESNETS = {
    "resnet18": ((2, 2, 2, 2), False, 64),
    "resnet18_narrow": ((2, 2, 2, 2), False, 32),  # ours: half the channels, a quarter of the work
    "resnet34": ((3, 4, 6, 3), False, 64),
    "resnet50": ((3, 4, 6, 3), True, 64),
    "resnet101": ((3, 4, 23, 3), True, 64),
    "resnet_debug": ((2, 1, 1, 1), True, 8),  # a second block, so that every kind of block occurs
}


class ResNetBlock(nn.Module):
    """Residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1, and a shortcut.

    Attributes:
      width: channels of the inner convolutions. A bottleneck has four times as many outputs.
      stride: of the block. In a bottleneck the 3x3 convolution has it.
      bottleneck: which of the two kinds the block is.
      shortcut: project the input by a 1x1 convolution, because its size or width changes.
      stride_in_1x1: give the stride to the first 1x1 convolution of a bottleneck instead.
      conv: norm, epsilon, frozen and dtype of all convolutions, as keyword arguments of `Conv`.
    """

    width: int
    stride: int
    bottleneck: bool
    shortcut: bool
    stride_in_1x1: bool
    conv: dict

    @nn.compact
    def __call__(self, x: jax.Array, region: ValidRegion | None = None) -> jax.Array:
        """Applies the block to [B, h, w, C]."""
        first, second = (
            (self.stride, 1) if self.stride_in_1x1 or not self.bottleneck else (1, self.stride)
        )
        if self.bottleneck:
            y = Conv(self.width, 1, first, relu=True, name="conv_1", **self.conv)(x, region)
            y = Conv(self.width, 3, second, relu=True, name="conv_2", **self.conv)(y, region)
            y = Conv(4 * self.width, 1, name="conv_3", **self.conv)(y, region)
        else:
            y = Conv(self.width, 3, first, relu=True, name="conv_1", **self.conv)(x, region)
            y = Conv(self.width, 3, second, name="conv_2", **self.conv)(y, region)
        if self.shortcut:
            x = Conv(y.shape[-1], 1, self.stride, name="shortcut", **self.conv)(x, region)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet backbone that returns the feature maps of its four stages.

    Submodules are `stem`, then `stage_2_block_0` and so on. Stages are numbered like their
    outputs, C2 to C5.

    Attributes:
      size: a key of `RESNETS`.
      stride_in_1x1: a bottleneck halves the map in its first 1x1 convolution, see `ResNetBlock`.
      norm: a key of `segjax.models.detection.layers.NORMS`.
      epsilon: of the norms.
      freeze_at: last frozen stage. 0 freezes nothing, 1 the stem, 2 the stem and stage 2 (the
        default for fine-tuning in both libraries), up to 5. Frozen parameters are constants, see
        `segjax.models.detection.layers.declare_array`.
      dtype: of the computation.
    """

    size: str
    stride_in_1x1: bool = False
    norm: str = "frozen_bn"
    epsilon: float = 1e-5
    freeze_at: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool = False, region: ValidRegion | None = None
    ) -> tuple[jax.Array, ...]:
        """Computes the maps C2 to C5, of strides 4, 8, 16 and 32.

        Args:
          x: normalized images, [B, H, W, 3].
          train: has no effect, as no norm computes statistics of its own.
          region: what lies outside of it has no influence on the maps inside. None: all is valid.

        Returns:
          C2 to C5, [B, ceil(H / 4), ceil(W / 4), C] and so on.
        """
        del train
        blocks, bottleneck, width = RESNETS[self.size]
        conv = dict(norm=self.norm, epsilon=self.epsilon, dtype=self.dtype)
        x = Conv(width, 7, 2, relu=True, frozen=self.freeze_at >= 1, name="stem", **conv)(x, region)
        # After the ReLU, zeros never are the maximum beside another cell.
        x = max_pool(blank_outside(x, region))
        maps = []
        for stage, count in enumerate(blocks, start=2):
            options = conv | dict(frozen=self.freeze_at >= stage)
            for i in range(count):
                block = ResNetBlock(
                    width,
                    # The pooling before stage 2 has halved the map already.
                    stride=2 if i == 0 and stage > 2 else 1,
                    bottleneck=bottleneck,
                    shortcut=i == 0 and (bottleneck or stage > 2),
                    stride_in_1x1=self.stride_in_1x1,
                    conv=options,
                    name=f"stage_{stage}_block_{i}",
                )
                x = block(x, region)
            maps.append(x)
            width *= 2
        return tuple(maps)
