"""Pre-norm transformer block. Windows, relative positions and other variants are options."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention import (
    attention,
    compute_relative_scores,
    partition_windows,
    unpartition_windows,
)
from segjax.models.attention.last_block import (
    BlockRecord,
    compute_attention_weights,
    mix_tokens,
    pool_by_masks,
)
from segjax.models.attention.rotary import rotate_patches
from segjax.models.layers import (
    LayerNorm,
    Linear,
    Mlp,
    drop_path,
    find_activation,
    small_normal,
)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + MLP(norm(x)).

    Attributes:
      heads: attention heads.
      mlp_ratio: width of the MLP over the width of a token.
      window: side of the attention windows in tokens. 0: global attention.
      grid: (h, w) that the relative position tables are made for. None: no relative positions.
      epsilon: added to the variance in the LayerNorms.
      activation: of the MLP, see `segjax.models.layers.ACTIVATIONS`.
      gated: the MLP is gated, see `Mlp`.
      qkv_bias: queries, keys and values have a bias.
      causal: a token sees itself and the earlier ones.
      layer_scale: initial value of LayerScale, a factor per channel of each residual branch. None:
        no LayerScale.
      dense: attention for dense features, see `mix_tokens`. "": plain attention.
      record: return the attention too.
      kernel_init: initializer of the linear layers.
      output_init: initializer of the linear layers that end a residual branch. None: `kernel_init`.
      dtype: of the computation.
      impl: implementation of the attention, see `attention`.
    """

    heads: int
    mlp_ratio: float = 4.0
    window: int = 0
    grid: tuple[int, int] | None = None
    epsilon: float = 1e-6
    activation: str = "gelu"
    gated: bool = False
    qkv_bias: bool = True
    causal: bool = False
    layer_scale: float | None = None
    dense: str = ""
    record: bool = False
    kernel_init: Callable = small_normal
    output_init: Callable | None = None
    dtype: jnp.dtype = jnp.float32
    impl: str = "xla"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        drop_rate: jax.Array | float = 0.0,
        key: jax.Array | None = None,
        masks: jax.Array | None = None,
        rotation: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array | tuple[jax.Array, BlockRecord]:
        """Applies the block.

        Args:
          x: [B, h, w, D], or [B, T, D] without windows and relative positions.
          drop_rate: drop path rate of this block.
          key: PRNG key of drop path. None: nothing is dropped.
          masks: bool [B, K, T]. The block computes the first token alone, once for each mask. This
            token sees the tokens of the mask alone.
          rotation: rotary positions of the patches, see `compute_rotation`. None: none.

        Returns:
          An array of the same shape, or [B, K, D] with masks. With `record` a pair of it and the
          `BlockRecord`.

        Raises:
          ValueError: an option that windows or relative positions do not have.
        """
        self._check_options(x, masks, rotation)
        keys = (None, None) if key is None else jax.random.split(key)
        width = x.shape[-1]

        # Attention
        y = LayerNorm(self.epsilon, self.dtype, name="norm_1")(x)
        record = None
        if self.window:
            grid = y.shape[1:3]
            # As in SAM's training, windows are padded after the norm, and padded tokens take part
            # in the attention.
            y, _ = self.attend(partition_windows(y, self.window))
            y = unpartition_windows(y, grid)
        else:
            y, record = self.attend(y, masks, rotation)
        if masks is not None:
            x = x[:, :1]
        x = x + drop_path(self._scale(y, "scale_1"), drop_rate, keys[0])

        # MLP
        y = LayerNorm(self.epsilon, self.dtype, name="norm_2")(x)
        y = Mlp(
            (int(width * self.mlp_ratio), width),
            activation=find_activation(self.activation),
            gated=self.gated,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            output_init=self.output_init,
            name="mlp",
        )(y)
        x = x + drop_path(self._scale(y, "scale_2"), drop_rate, keys[1])
        return (x, record) if self.record else x

    def attend(
        self,
        x: jax.Array,
        masks: jax.Array | None = None,
        rotation: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, BlockRecord | None]:
        """Computes self-attention within each map [..., h, w, D], or among tokens [B, T, D].

        Returns:
          A pair of an array of the same shape, or [B, K, D] with masks, and the `BlockRecord` if
          there is one to make.
        """
        width = x.shape[-1]
        channels = width // self.heads
        lead = x.shape[:-2] if self.grid is None and x.ndim == 3 else x.shape[:-3]
        tokens = x.reshape(*lead, -1, width) if x.ndim > 3 else x
        lead = tokens.shape[:-1]
        qkv = Linear(
            3 * width, self.qkv_bias, dtype=self.dtype, kernel_init=self.kernel_init, name="qkv"
        )(tokens)
        q, k, v = jnp.moveaxis(qkv.reshape(*lead, 3, self.heads, channels), -3, 0)
        if rotation is not None:
            q, k = rotate_patches(q, rotation), rotate_patches(k, rotation)

        # Decomposed relative positions
        relative = None
        if self.grid is not None:
            table_h, table_w = (
                self.param(f"rel_pos_{axis}", nn.initializers.zeros, (2 * size - 1, channels))
                for axis, size in zip("hw", self.grid, strict=True)
            )
            relative = compute_relative_scores(q, table_h, table_w, x.shape[-3:-1])

        # Attention
        record = None
        if self.record:
            record = BlockRecord(q, k, v, compute_attention_weights(q, k, relative, self.causal))
        if masks is not None:
            out = pool_by_masks(q[:, 0], k, v, masks)
        elif self.dense:
            out = mix_tokens(q, k, v, self.dense)
        else:
            out = attention(q, k, v, relative=relative, causal=self.causal, impl=self.impl)

        # Output projection
        out = out.reshape(*out.shape[:-2], width)
        init = self.output_init or self.kernel_init
        out = Linear(width, dtype=self.dtype, kernel_init=init, name="proj")(out)
        return (out if masks is not None else out.reshape(x.shape)), record

    def _scale(self, y: jax.Array, name: str) -> jax.Array:
        """Applies LayerScale to a residual branch."""
        if self.layer_scale is None:
            return y
        scale = self.param(name, nn.initializers.constant(self.layer_scale), (y.shape[-1],))
        return y * scale.astype(y.dtype)

    def _check_options(self, x: jax.Array, masks: jax.Array | None, rotation: tuple | None) -> None:
        """Raises ValueError for options that do not go together."""
        extra = masks is not None or rotation is not None
        if self.window and (extra or self.dense or self.record or self.causal):
            raise ValueError(
                "masks, dense features, records, rotary positions and causal masks need global "
                f"attention; this block has windows of {self.window} tokens"
            )
        if self.grid is not None and (masks is not None or self.dense):
            raise ValueError("masks and dense features need a block without relative positions")
        if masks is not None and (x.ndim != 3 or masks.shape[::2] != x.shape[:2]):
            raise ValueError(
                f"masks are {masks.shape}, tokens {x.shape}; expected [B, K, T] and [B, T, D]"
            )
