"""Vision transformer (ViT) trunk that all models share: pre-norm blocks.

Windowed attention and decomposed relative positions are options of a block. The encoders of SAM,
MAE, ViTDet and the classifier are this trunk, and so is MAE's decoder. Each model adds embeddings
before it and heads after it.
"""

import itertools
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
from segjax.models.layers import LayerNorm, Linear, Mlp, drop_path, small_normal
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
      bias_init: initializer of the bias.
    """

    width: int
    patch: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3)
    bias_init: Callable = nn.initializers.zeros

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
        bias = self.param("bias", self.bias_init, (self.width,))
        return affine(patches, kernel.reshape(-1, self.width), bias)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + MLP(norm(x)).

    Attributes:
      heads: attention heads.
      mlp_ratio: width of the MLP over the width of a token.
      window: side of the attention windows in tokens. 0: global attention.
      grid: (h, w) that the relative position tables are made for. None: no relative positions.
      epsilon: added to the variance in the LayerNorms.
      kernel_init: initializer of the linear layers.
      dtype: of the computation.
      impl: implementation of the attention, see `attention`.
    """

    heads: int
    mlp_ratio: float = 4.0
    window: int = 0
    grid: tuple[int, int] | None = None
    epsilon: float = 1e-6
    kernel_init: Callable = small_normal
    dtype: jnp.dtype = jnp.float32
    impl: str = "xla"

    @nn.compact
    def __call__(
        self, x: jax.Array, drop_rate: jax.Array | float = 0.0, key: jax.Array | None = None
    ) -> jax.Array:
        """Applies the block.

        Args:
          x: [B, h, w, D], or [B, T, D] without windows and relative positions.
          drop_rate: drop path rate of this block.
          key: PRNG key of drop path. None: nothing is dropped.

        Returns:
          An array of the same shape.
        """
        keys = (None, None) if key is None else jax.random.split(key)
        width = x.shape[-1]

        # Attention
        y = LayerNorm(self.epsilon, self.dtype, name="norm_1")(x)
        if self.window:
            grid = y.shape[1:3]
            # As in SAM's training, windows are padded after the norm, and padded tokens take part
            # in the attention.
            y = unpartition_windows(self.attend(partition_windows(y, self.window)), grid)
        else:
            y = self.attend(y)
        x = x + drop_path(y, drop_rate, keys[0])

        # MLP
        y = LayerNorm(self.epsilon, self.dtype, name="norm_2")(x)
        y = Mlp(
            (int(width * self.mlp_ratio), width),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="mlp",
        )(y)
        return x + drop_path(y, drop_rate, keys[1])

    def attend(self, x: jax.Array) -> jax.Array:
        """Computes self-attention within each map [..., h, w, D], or among tokens [B, T, D]."""
        width = x.shape[-1]
        channels = width // self.heads
        lead = x.shape[:-2] if self.grid is None and x.ndim == 3 else x.shape[:-3]
        tokens = x.reshape(*lead, -1, width) if x.ndim > 3 else x
        lead = tokens.shape[:-1]
        qkv = Linear(3 * width, dtype=self.dtype, kernel_init=self.kernel_init, name="qkv")(tokens)
        q, k, v = jnp.moveaxis(qkv.reshape(*lead, 3, self.heads, channels), -3, 0)

        # Decomposed relative positions
        relative = None
        if self.grid is not None:
            table_h, table_w = (
                self.param(f"rel_pos_{axis}", nn.initializers.zeros, (2 * size - 1, channels))
                for axis, size in zip("hw", self.grid, strict=True)
            )
            relative = compute_relative_scores(q, table_h, table_w, x.shape[-3:-1])

        # Attention and output projection
        out = attention(q, k, v, relative=relative, impl=self.impl).reshape(tokens.shape)
        return Linear(width, dtype=self.dtype, kernel_init=self.kernel_init, name="proj")(
            out
        ).reshape(x.shape)


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
      kernel_init: initializer of the linear layers.
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
    kernel_init: Callable = small_normal
    remat: str = "none"
    scan: bool = False
    dtype: jnp.dtype = jnp.float32
    impl: str = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Applies all blocks.

        Args:
          x: tokens, [B, h, w, D] or [B, T, D].
          train: True applies drop path, which needs the rng "drop_path".

        Returns:
          Tokens of the same shape.
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
        if self.scan and not self.is_initializing():
            return self._scanned(x, windows, rates, keys)
        # Rematerialization
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=True, policy=REMAT_POLICIES[self.remat])
        for i, window in enumerate(windows):
            make = block(**self._block_options(window), name=f"block_{i}")
            x = make(x, rates[i], None if keys is None else keys[i])
        return x

    def _block_options(self, window: int) -> dict:
        """Returns the attributes of a block. Tables of windowed blocks are of the window's size."""
        grid = self.grid if self.grid is None or not window else (window, window)
        options = dict(heads=self.heads, mlp_ratio=self.mlp_ratio, window=window, grid=grid)
        return options | dict(
            epsilon=self.epsilon, kernel_init=self.kernel_init, dtype=self.dtype, impl=self.impl
        )

    def _scanned(
        self, x: jax.Array, windows: list[int], rates: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """Applies all blocks in nested scans.

        The outer scan goes over the repeating unit of the stack, the inner ones over runs of equal
        blocks in it. SAM's ViT-B has 4 units of 2 windowed blocks and 1 global block.
        """
        # Find the repeating unit, and the runs of equal blocks in it.
        period = next(
            p
            for p in range(1, self.depth + 1)
            if windows == windows[:p] * (self.depth // p) and self.depth % p == 0
        )
        runs, start = [], 0  # (window, first block, block after the last)
        for window, equal in itertools.groupby(windows[:period]):
            runs.append((window, start, start := start + len(list(equal))))

        # Stack the inputs of each run: parameters, drop path rates and keys
        params = [self.variables["params"][f"block_{i}"] for i in range(self.depth)]
        stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        # Legacy PRNG keys are rows of two numbers, so values may have further axes.
        by_unit = lambda values, first, end: values.reshape(-1, period, *values.shape[1:])[
            :, first:end
        ]
        inputs = [
            (
                stack(
                    [
                        stack(params[unit + first : unit + end])
                        for unit in range(0, self.depth, period)
                    ]
                ),
                by_unit(rates, first, end),
                None if keys is None else by_unit(keys, first, end),
            )
            for _, first, end in runs
        ]

        def run_unit(x, unit_inputs):
            for (window, _, _), run_inputs in zip(runs, unit_inputs, strict=True):
                x, _ = jax.lax.scan(self._block_step(window), x, run_inputs)
            return x, None

        return jax.lax.scan(run_unit, x, inputs)[0]

    def _block_step(self, window: int):
        """Returns a block as a step of `lax.scan`: (x, (params, rate, key)) -> (x, None)."""

        def step(x, inputs):
            params, rate, key = inputs
            return Block(**self._block_options(window), parent=None).apply(
                {"params": params}, x, rate, key
            ), None

        if self.remat == "none":
            return step
        # In a scan XLA cannot merge the recomputation with the forward pass, so no guard is needed.
        return jax.checkpoint(step, prevent_cse=False, policy=REMAT_POLICIES[self.remat])


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
