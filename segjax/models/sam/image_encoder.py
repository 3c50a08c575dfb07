"""SAM's image encoder: patches, the ViT trunk, and a neck down to the width of the prompts (SAM, appendix A)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import LayerNorm, torch_conv
from segjax.models.vit import encode_patches


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
        x = encode_patches(self, images, train=train)
        conv = lambda size, name: nn.Conv(
            self.out_width,
            (size, size),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=torch_conv,
            name=name,
        )
        x = LayerNorm(dtype=self.dtype, name="neck_norm_1")(conv(1, "neck_conv_1")(x))
        return LayerNorm(dtype=self.dtype, name="neck_norm_2")(conv(3, "neck_conv_2")(x))
