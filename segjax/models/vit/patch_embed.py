"""Patch embedding, and the encoder of patches that SAM and ViTDet share."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.vit.trunk import ViT
from segjax.ops.positions import cubic_weights
from segjax.ops.resize import linear_weights, space_to_depth
from segjax.ops.sharded_dense import affine


def check_canvas(canvas: int, patch: int) -> None:
    """Raises ValueError for a canvas that is not a multiple of the patch, with the nearest ones."""
    if canvas % patch:
        lower = canvas // patch * patch
        sizes = " or ".join(str(size) for size in (lower, lower + patch) if size)
        raise ValueError(f"canvas {canvas} is not a multiple of the patch {patch}; use {sizes}")


class PatchEmbed(nn.Module):
    """Patch embedding: a convolution whose stride is its kernel size, as one matrix product.

    Parameters: kernel [patch, patch, C, width] and bias [width].

    Attributes:
      width: channels of a token.
      patch: side of a patch in pixels.
      dtype: of the computation.
      kernel_init: initializer of the kernel.
      bias_init: initializer of the bias. None: no bias, as in CLIP.
    """

    width: int
    patch: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3)
    bias_init: Callable | None = nn.initializers.zeros

    @nn.compact
    def __call__(self, images: jax.Array, visible: jax.Array | None = None) -> jax.Array:
        """Embeds the patches of images.

        Args:
          images: [B, H, W, C]. H and W are multiples of the patch.
          visible: int [B, T], indices of the patches to embed, counted row by row. None: all.

        Returns:
          Tokens [B, H/patch, W/patch, width], or [B, T, width] of the visible patches.
        """
        patches = space_to_depth(images.astype(self.dtype), self.patch)
        if visible is not None:
            patches = patches.reshape(patches.shape[0], -1, patches.shape[-1])
            patches = jnp.take_along_axis(patches, visible[..., None], axis=1)
        shape = (self.patch, self.patch, images.shape[-1], self.width)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = None if self.bias_init is None else self.param("bias", self.bias_init, (self.width,))
        return affine(patches, kernel.reshape(-1, self.width), bias)


def encode_patches(
    module: nn.Module, images: jax.Array, *, train: bool = False, cubic: bool = False
) -> jax.Array:
    """Applies patch embedding, learned positions and the trunk, as in SAM and ViTDet.

    Call it in a compact method. The module gets the parameters patch_embed, pos_embed and trunk.

    Args:
      module: has the attributes width, patch, grid, dtype and trunk (options of `ViT`).
      images: normalized, [B, H, W, 3]. H and W are multiples of the patch. The positions, learned
        for `grid`, are resized to other grids.
      train: True applies drop path.
      cubic: resize the positions bicubically instead of bilinearly.

    Returns:
      Tokens [B, H/patch, W/patch, width].
    """
    x = PatchEmbed(module.width, module.patch, module.dtype, name="patch_embed")(images)
    positions = module.param(
        "pos_embed", nn.initializers.truncated_normal(0.02), (1, *module.grid, module.width)
    )
    # Positions of another grid are resized
    if (grid := x.shape[1:3]) != tuple(module.grid):
        weights = cubic_weights if cubic else linear_weights
        rows, columns = (
            jnp.float32(weights(*sizes)) for sizes in zip(module.grid, grid, strict=True)
        )
        positions = jnp.einsum("yh,xw,bhwd->byxd", rows, columns, positions, precision="highest")
    x = x + positions.astype(module.dtype)
    return ViT(**module.trunk, dtype=module.dtype, name="trunk")(x, train=train)
