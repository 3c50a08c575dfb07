"""Vision transformer (ViT) trunk that all models share: a stack of pre-norm blocks.

The encoders of SAM, MAE, ViTDet, CLIP and the classifier are this trunk, and so are MAE's decoder
and CLIP's text encoder. Each model adds embeddings before it and heads after it.
"""

import itertools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention.last_block import BlockRecord
from segjax.models.layers import small_normal
from segjax.models.vit.block import Block

REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class ViT(nn.Module):
    """Stack of transformer blocks.

    Parameters are named block_0, block_1, ... and are never stacked, not even with `scan`.

    Attributes:
      depth: number of blocks.
      heads: attention heads.
      mlp_ratio: width of the MLP over the width of a token.
      window: side of the attention windows in tokens. 0: global attention in all blocks.
      global_blocks: indices of the blocks with global attention.
      grid: (h, w) of the token map that the relative position tables are made for. They are resized
        to other maps. None: no relative positions.
      drop_path: drop path rate (stochastic depth) of the last block. It grows linearly from 0.
      epsilon: added to the variance in the LayerNorms.
      activation: of the MLPs, see `segjax.models.layers.ACTIVATIONS`.
      gated: the MLPs are gated, see `Mlp`.
      qkv_bias: queries, keys and values have a bias.
      causal: a token sees itself and the earlier ones.
      layer_scale: initial value of LayerScale, a factor per channel of each residual branch. None:
        no LayerScale.
      kernel_init: initializer of the linear layers.
      output_init: initializer of the linear layers that end a residual branch. None: `kernel_init`.
      remat: rematerialization (gradient checkpointing). "none", "full" (save the inputs of blocks
        only) or "dots" (save matrix products without batch axes).
      scan: run equal blocks as one `lax.scan`, which compiles one block for the whole depth. The
        results are the same.
      dtype: of the computation. bfloat16 is mixed precision: parameters, statistics of norms and
        softmax stay float32.
      impl: implementation of the attention, see `attention`.
    """

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    window: int = 0
    global_blocks: tuple[int, ...] = ()
    grid: tuple[int, int] | None = None
    drop_path: float = 0.0
    epsilon: float = 1e-6
    activation: str = "gelu"
    gated: bool = False
    qkv_bias: bool = True
    causal: bool = False
    layer_scale: float | None = None
    kernel_init: Callable = small_normal
    output_init: Callable | None = None
    remat: str = "none"
    scan: bool = False
    dtype: jnp.dtype = jnp.float32
    impl: str = "xla"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool = False,
        masks: jax.Array | None = None,
        rotation: tuple[jax.Array, jax.Array] | None = None,
        dense: str = "",
        record: Sequence[int] = (),
    ) -> jax.Array | tuple[jax.Array, list[BlockRecord]]:
        """Applies all blocks.

        Args:
          x: tokens, [B, h, w, D] or [B, T, D].
          train: True applies drop path, which needs the rng "drop_path".
          masks: bool [B, K, T]. The last block computes the first token alone, once for each mask,
            and this token sees the tokens of the mask alone.
          rotation: rotary positions of the patches, see `compute_rotation`. None: none.
          dense: attention of the last block for dense features, see `mix_tokens`.
          record: indices of blocks whose attention is returned too. -1 is the last one.

        Returns:
          Tokens of the same shape, or [B, K, D] with masks. With `record` a pair of them and the
          `BlockRecord`s, in the order of the indices.

        Raises:
          ValueError: unknown `remat`, or a block to record that does not exist.
        """
        if self.remat != "none" and self.remat not in REMAT_POLICIES:
            raise ValueError(
                f"remat {self.remat!r} is unknown; choose 'none', "
                + ", ".join(map(repr, REMAT_POLICIES))
            )
        windows = [0 if i in self.global_blocks else self.window for i in range(self.depth)]
        # Drop path: rates grow linearly, every block has a key of its own
        rates = jnp.linspace(0.0, self.drop_path, self.depth)
        keys = None
        if train and self.drop_path > 0:
            keys = jax.random.split(self.make_rng("drop_path"), self.depth)
        recorded = [self._find_block(index) for index in record]
        last = dict(dense=dense) if dense else {}
        # Records need blocks one by one
        if self.scan and not self.is_initializing() and not recorded:
            return self._scanned(x, windows, rates, keys, masks, rotation, last)
        # Rematerialization
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=True, policy=REMAT_POLICIES[self.remat])
        records = {}
        for i, window in enumerate(windows):
            is_last = i + 1 == self.depth
            options = self._block_options(window) | (last if is_last else {})
            make = block(**options, record=i in recorded, name=f"block_{i}")
            key = None if keys is None else keys[i]
            x = make(x, rates[i], key, masks if is_last else None, rotation)
            if i in recorded:
                x, records[i] = x
        return (x, [records[i] for i in recorded]) if recorded else x

    def _find_block(self, index: int) -> int:
        """Returns the index of a block counted from 0."""
        if not -self.depth <= index < self.depth:
            raise ValueError(f"block {index} does not exist; this ViT has {self.depth} blocks")
        return index % self.depth

    def _block_options(self, window: int) -> dict:
        """Returns the attributes of a block. Tables of windowed blocks are of the window's size."""
        grid = self.grid if self.grid is None or not window else (window, window)
        options = dict(heads=self.heads, mlp_ratio=self.mlp_ratio, window=window, grid=grid)
        options |= dict(gated=self.gated, qkv_bias=self.qkv_bias)
        options |= dict(activation=self.activation, causal=self.causal)
        options |= dict(layer_scale=self.layer_scale, output_init=self.output_init)
        return options | dict(
            epsilon=self.epsilon, kernel_init=self.kernel_init, dtype=self.dtype, impl=self.impl
        )

    def _scanned(
        self,
        x: jax.Array,
        windows: list[int],
        rates: jax.Array,
        keys: jax.Array | None,
        masks: jax.Array | None,
        rotation: tuple[jax.Array, jax.Array] | None,
        last: dict,
    ) -> jax.Array:
        """Applies all blocks by scans, a last block that does something else by itself."""
        special = bool(last) or masks is not None
        equal = self.depth - special
        params = [self.variables["params"][f"block_{i}"] for i in range(self.depth)]
        if equal:
            own_keys = None if keys is None else keys[:equal]
            inputs = (params[:equal], windows[:equal], rates[:equal], own_keys)
            x = self._scan_blocks(x, *inputs, rotation)
        if not special:
            return x
        block = Block(**self._block_options(windows[-1]), **last, parent=None)
        key = None if keys is None else keys[-1]
        return block.apply({"params": params[-1]}, x, rates[-1], key, masks, rotation)

    def _scan_blocks(
        self,
        x: jax.Array,
        params: list,
        windows: list[int],
        rates: jax.Array,
        keys: jax.Array | None,
        rotation: tuple[jax.Array, jax.Array] | None,
    ) -> jax.Array:
        """Applies blocks in nested scans.

        The outer scan goes over the repeating unit of the stack, the inner ones over runs of equal
        blocks in it. SAM's ViT-B has 4 units of 2 windowed blocks and 1 global block.
        """
        # Find the repeating unit, and the runs of equal blocks in it.
        depth = len(params)
        period = next(
            p
            for p in range(1, depth + 1)
            if windows == windows[:p] * (depth // p) and depth % p == 0
        )
        runs, start = [], 0  # (window, first block, block after the last)
        for window, equal in itertools.groupby(windows[:period]):
            runs.append((window, start, start := start + len(list(equal))))

        # Stack the inputs of each run: parameters, drop path rates and keys
        stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        # Legacy PRNG keys are rows of two numbers, so values may have further axes.
        by_unit = lambda values, first, end: values.reshape(-1, period, *values.shape[1:])[
            :, first:end
        ]
        inputs = [
            (
                stack(
                    [stack(params[unit + first : unit + end]) for unit in range(0, depth, period)]
                ),
                by_unit(rates, first, end),
                None if keys is None else by_unit(keys, first, end),
            )
            for _, first, end in runs
        ]

        def run_unit(x, unit_inputs):
            for (window, _, _), run_inputs in zip(runs, unit_inputs, strict=True):
                x, _ = jax.lax.scan(self._block_step(window, rotation), x, run_inputs)
            return x, None

        return jax.lax.scan(run_unit, x, inputs)[0]

    def _block_step(self, window: int, rotation: tuple[jax.Array, jax.Array] | None):
        """Returns a block as a step of `lax.scan`: (x, (params, rate, key)) -> (x, None)."""

        def step(x, inputs):
            params, rate, key = inputs
            return Block(**self._block_options(window), parent=None).apply(
                {"params": params}, x, rate, key, None, rotation
            ), None

        if self.remat == "none":
            return step
        # In a scan XLA cannot merge the recomputation with the forward pass, so no guard is needed.
        return jax.checkpoint(step, prevent_cse=False, policy=REMAT_POLICIES[self.remat])
