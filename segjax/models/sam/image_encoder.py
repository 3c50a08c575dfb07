"""SAM's image encoder: patches, the ViT trunk, and a neck down to the width of the prompts (SAM, appendix A)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import LayerNorm
from segjax.models.vit import PatchEmbed, ViT
from segjax.ops.resize import resize_bilinear

torch_conv = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ImageEncoder(nn.Module):
    """Normalised images [B, H, W, 3] -> embedding [B, H/patch, W/patch, out_width].

    H and W are any multiples of the patch; positions are learned for `grid` and resized for any other.
    """

    trunk: dict
    width: int
    out_width: int
    patch: int
    grid: tuple[int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        x = PatchEmbed(self.width, self.patch, self.dtype, name="patch_embed")(images)
        positions = self.param("pos_embed", nn.initializers.truncated_normal(0.02), (1, *self.grid, self.width))
        if x.shape[1:3] != self.grid:
            positions = jnp.moveaxis(resize_bilinear(jnp.moveaxis(positions, -1, 1), x.shape[1:3]), 1, -1)
        x = x + positions.astype(self.dtype)
        x = ViT(**self.trunk, dtype=self.dtype, name="trunk")(x, train=train)
        conv = lambda size, name: nn.Conv(
            self.out_width, (size, size), use_bias=False, dtype=self.dtype, kernel_init=torch_conv, name=name
        )
        x = LayerNorm(dtype=self.dtype, name="neck_norm_1")(conv(1, "neck_conv_1")(x))
        return LayerNorm(dtype=self.dtype, name="neck_norm_2")(conv(3, "neck_conv_2")(x))
