"""Feature pyramids (arXiv 1612.03144): maps of one width for all strides, each with what the coarser ones know."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.detection.convolution import Conv, caffe_xavier


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
        options = dict(norm=self.norm, epsilon=self.epsilon, kernel_init=caffe_xavier, dtype=self.dtype)
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
