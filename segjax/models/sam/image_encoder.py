"""SAM's image encoder: patch embedding, ViT trunk, and the neck (SAM, appendix A)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import LayerNorm, torch_conv
from segjax.models.vit import encode_patches


class ImageEncoder(nn.Module):
    """Image encoder: a ViT that turns normalized images into image embeddings.

    H and W may be any multiples of the patch. Positions are learned for `grid` and are resized for
    any other grid.

    Attributes:
      trunk: Options of `ViT`.
      width: Channels of the trunk.
      out_width: Channels of the image embedding, after the neck.
      patch: Side of a patch, in pixels.
      grid: (h, w), in patches.
      dtype: Type of the computation.
    """

    trunk: dict
    width: int
    out_width: int
    patch: int
    grid: tuple[int, int]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes image embeddings: [B, H, W, 3] -> [B, H/patch, W/patch, out_width]."""
        x = encode_patches(self, images, train=train)
        # Neck: two convolutions without bias, each with a norm
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
