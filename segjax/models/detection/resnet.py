"""ResNets (arXiv 1512.03385) as backbones of detectors: the maps of their four stages."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.layers import Conv, max_pool

# Blocks of a stage, whether they are bottlenecks, and the channels of the first stage's inner convolutions.
RESNETS = {
    "resnet18": ((2, 2, 2, 2), False, 64),
    "resnet18_narrow": ((2, 2, 2, 2), False, 32),  # ours: half the channels, a quarter of the work
    "resnet34": ((3, 4, 6, 3), False, 64),
    "resnet50": ((3, 4, 6, 3), True, 64),
    "resnet101": ((3, 4, 23, 3), True, 64),
    "resnet_debug": ((2, 1, 1, 1), True, 8),  # a second block, so that every kind is there
}


class Block(nn.Module):
    """Two convolutions 3x3, or a bottleneck of 1x1, 3x3, 1x1, beside a shortcut.

    Attributes:
      width: channels of the inner convolutions; a bottleneck puts out four times as many.
      stride: of the block; in a bottleneck it is the 3x3 convolution's, or with stride_in_1x1 the first one's.
      shortcut: project what goes past the convolutions, where its size changes.
      conv: norm, epsilon, frozen and dtype of every convolution.
    """

    width: int
    stride: int
    bottleneck: bool
    shortcut: bool
    stride_in_1x1: bool
    conv: dict

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = (
            (self.stride, 1) if self.stride_in_1x1 or not self.bottleneck else (1, self.stride)
        )
        if self.bottleneck:
            y = Conv(self.width, 1, first, relu=True, name="conv_1", **self.conv)(x)
            y = Conv(self.width, 3, second, relu=True, name="conv_2", **self.conv)(y)
            y = Conv(4 * self.width, 1, name="conv_3", **self.conv)(y)
        else:
            y = Conv(self.width, 3, first, relu=True, name="conv_1", **self.conv)(x)
            y = Conv(self.width, 3, second, name="conv_2", **self.conv)(y)
        if self.shortcut:
            x = Conv(y.shape[-1], 1, self.stride, name="shortcut", **self.conv)(x)
        return jax.nn.relu(x + y)


class ResNet(nn.Module):
    """Normalised images [B, H, W, 3] -> the maps C2 to C5 of strides 4, 8, 16 and 32, [B, ceil(H / 4), ..., C] etc.

    Modules are stem, then stage_2_block_0 and so on, stages called as the maps that they make.

    Attributes:
      size: a key of `RESNETS`.
      freeze_at: the last stage that is frozen: 0 freezes nothing, 1 the stem, 2 the stem and stage_2 (as both libraries
        fine-tune), up to 5. What is frozen is constants, see `segjax.models.detection.layers.stored`.
    """

    size: str
    stride_in_1x1: bool = False
    norm: str = "frozen_bn"
    epsilon: float = 1e-5
    freeze_at: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        blocks, bottleneck, width = RESNETS[self.size]
        conv = dict(norm=self.norm, epsilon=self.epsilon, dtype=self.dtype)
        x = Conv(width, 7, 2, relu=True, frozen=self.freeze_at >= 1, name="stem", **conv)(x)
        x = max_pool(x)
        maps = []
        for stage, count in enumerate(blocks, start=2):
            options = conv | dict(frozen=self.freeze_at >= stage)
            for i in range(count):
                stride = 2 if i == 0 and stage > 2 else 1
                shortcut = i == 0 and (bottleneck or stage > 2)
                place = f"stage_{stage}_block_{i}"
                x = Block(
                    width, stride, bottleneck, shortcut, self.stride_in_1x1, options, name=place
                )(x)
            maps.append(x)
            width *= 2
        return tuple(maps)
