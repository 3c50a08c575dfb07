"""Plain ViT encoder with prefix tokens, as in CLIP and DINO: class token, registers, patches."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention.last_block import BlockRecord
from segjax.models.layers import LayerNorm
from segjax.models.vit.patch_embed import PatchEmbed
from segjax.models.vit.trunk import ViT
from segjax.ops.positions import cubic_weights


class TokenEncoder(nn.Module):
    """Patch embedding, class token, registers, learned positions, and the trunk, without a head.

    Attributes:
      trunk: options of `ViT`.
      width: channels of a token.
      patch: side of a patch in pixels.
      grid: (h, w) of patches that the positions are learned for. They are resized bicubically to
        other grids.
      registers: number of register tokens (arXiv 2309.16588), which have no position. They follow
        the class token.
      patch_bias: the patch embedding has a bias.
      pre_norm: a LayerNorm before the blocks ("ln_pre" in CLIP).
      epsilon: added to the variance in the LayerNorms.
      position_init: initializer of positions and class token.
      dtype: of the computation.
    """

    trunk: dict
    width: int
    patch: int
    grid: tuple[int, int]
    registers: int = 0
    patch_bias: bool = True
    pre_norm: bool = False
    epsilon: float = 1e-6
    position_init: Callable = nn.initializers.truncated_normal(0.02)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        masks: jax.Array | None = None,
        dense: str = "",
        record: bool = False,
    ) -> jax.Array | tuple[jax.Array, BlockRecord]:
        """Encodes images.

        Args:
          images: normalized, [B, H, W, 3]. H and W are multiples of the patch.
          train: True applies drop path.
          masks: bool [B, K, 1 + registers + h * w], see `ViT`.
          dense: see `ViT`.
          record: see `ViT`.

        Returns:
          Tokens [B, 1 + registers + h * w, width], the class token first, the patches last, row by
          row. [B, K, width] with masks. With `record` a pair of it and the last block's record.
        """
        bias_init = nn.initializers.zeros if self.patch_bias else None
        embed = PatchEmbed(
            self.width, self.patch, self.dtype, bias_init=bias_init, name="patch_embed"
        )
        patches = embed(images)
        grid = patches.shape[1:3]
        cells = math.prod(self.grid)

        # Positions: row 0 is the class token's. Those of another grid are resized.
        positions = self.param("pos_embed", self.position_init, (1 + cells, self.width))
        token = self.param("cls_token", self.position_init, (self.width,)) + positions[0]
        table = positions[1:].reshape(*self.grid, self.width)
        if grid != tuple(self.grid):
            rows, columns = (
                jnp.float32(cubic_weights(*sizes)) for sizes in zip(self.grid, grid, strict=True)
            )
            table = jnp.einsum("yh,xw,hwd->yxd", rows, columns, table, precision="highest")
        patches = (patches + table.astype(self.dtype)).reshape(len(patches), -1, self.width)

        # Prefix tokens
        prefix = token[None]
        if self.registers:
            shape = (self.registers, self.width)
            registers = self.param("registers", self.position_init, shape)
            prefix = jnp.concatenate([prefix, registers])
        prefix = jnp.broadcast_to(prefix.astype(self.dtype), (len(patches), *prefix.shape))
        x = jnp.concatenate([prefix, patches], axis=1)

        # Blocks
        if self.pre_norm:
            x = LayerNorm(self.epsilon, self.dtype, name="norm_pre")(x)
        trunk = ViT(**self.trunk, epsilon=self.epsilon, dtype=self.dtype, name="trunk")
        return trunk(x, train=train, masks=masks, dense=dense, record=record)
