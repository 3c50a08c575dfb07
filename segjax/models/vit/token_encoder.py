"""Plain ViT encoder with prefix tokens, as in CLIP and DINO: class token, registers, patches."""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention.rotary import compute_rotation, make_periods
from segjax.models.layers import LayerNorm
from segjax.models.vit.patch_embed import PatchEmbed
from segjax.models.vit.trunk import ViT
from segjax.ops.positions import position_weights


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
      position_rule: how positions are resized, see `position_weights`. "rotary": there is no table;
        queries and keys of patches are rotated instead, see `segjax.models.attention.rotary`.
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
    position_rule: str = "size"
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
    ) -> jax.Array:
        """Encodes images.

        Args:
          images: normalized, [B, H, W, 3]. H and W are multiples of the patch.
          train: True applies drop path.
          masks: bool [B, K, 1 + registers + h * w], see `ViT`.
          dense: see `ViT`.

        Returns:
          Tokens [B, 1 + registers + h * w, width], the class token first, the patches last, row by
          row. [B, K, width] with masks.
        """
        bias_init = nn.initializers.zeros if self.patch_bias else None
        embed = PatchEmbed(
            self.width, self.patch, self.dtype, bias_init=bias_init, name="patch_embed"
        )
        patches = embed(images)
        grid = patches.shape[1:3]

        # Positions: row 0 is the class token's. Those of another grid are resized.
        rotation = table = None
        if self.position_rule == "rotary":
            make = lambda: jnp.asarray(make_periods(self.width // self.trunk["heads"]))
            rotation = compute_rotation(grid, self.variable("constants", "periods", make).value)
        else:
            shape = (1 + math.prod(self.grid), self.width)
            table = self.param("pos_embed", self.position_init, shape)
        token = self.param("cls_token", self.position_init, (self.width,))
        if table is not None:
            token, table = token + table[0], table[1:].reshape(*self.grid, self.width)
            if grid != tuple(self.grid):
                table = resize_positions(table, grid, self.position_rule)
            patches = patches + table.astype(self.dtype)
        patches = patches.reshape(len(patches), -1, self.width)

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
        return trunk(x, train=train, masks=masks, rotation=rotation, dense=dense)


def resize_positions(table: jax.Array, grid: tuple[int, int], rule: str) -> jax.Array:
    """Resizes a position table [h, w, D] to another grid by a rule, see `position_weights`."""
    rows, columns = (
        jnp.float32(position_weights(*sizes, rule))
        for sizes in zip(table.shape[:2], grid, strict=True)
    )
    return jnp.einsum("yh,xw,hwd->yxd", rows, columns, table, precision="highest")
