"""The one vision transformer trunk: plain pre-norm blocks, with windows and relative positions where a model has them.

Embeddings go before it and heads behind: the encoders of SAM and MAE are this trunk, and so is MAE's decoder.
"""

import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention import attention, merge_windows, partition_windows, relative_scores
from segjax.models.layers import LayerNorm, Linear, Mlp, drop_path, small_normal
from segjax.ops.positions import cubic_weights
from segjax.ops.resize import linear_weights, space_to_depth
from segjax.ops.sharded_dense import affine


def check_canvas(canvas: int, patch: int) -> None:
    """Raises ValueError for a canvas that the patch does not divide, with the nearest that it does."""
    if canvas % patch:
        lower = canvas // patch * patch
        sizes = " or ".join(str(size) for size in (lower, lower + patch) if size)
        raise ValueError(f"canvas {canvas} is not a multiple of the patch {patch}; take {sizes}")


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: a convolution whose stride is its kernel, computed as one matrix product.

    Parameters are kernel [patch, patch, C, width] and bias [width].
    """

    width: int
    patch: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3)
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, images: jax.Array, seen: jax.Array | None = None) -> jax.Array:
        """[B, H, W, C] -> [B, H/patch, W/patch, width].

        seen: int [B, T], indices of patches, counted row by row: only these are embedded, to [B, T, width].
        """
        patches = space_to_depth(images.astype(self.dtype), self.patch)
        if seen is not None:
            patches = patches.reshape(patches.shape[0], -1, patches.shape[-1])
            patches = jnp.take_along_axis(patches, seen[..., None], axis=1)
        shape = (self.patch, self.patch, images.shape[-1], self.width)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", self.bias_init, (self.width,))
        return affine(patches, kernel.reshape(-1, self.width), bias)


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to the stream.

    Attributes:
      window: side of the attention windows in tokens; 0 attends everywhere.
      grid: (h, w) for which the relative-position tables are made; None has none.
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
        """x: [B, h, w, D], or [B, T, D] without windows and relative positions; same shape back.

        drop_rate and key are the stochastic depth of this block; no key, no dropping.
        """
        keys = (None, None) if key is None else jax.random.split(key)
        width = x.shape[-1]
        y = LayerNorm(self.epsilon, self.dtype, name="norm_1")(x)
        if self.window:
            grid = y.shape[1:3]
            # Padding comes after the norm and is not masked: padded tokens attend and are attended, as SAM was trained.
            y = merge_windows(self.attend(partition_windows(y, self.window)), grid)
        else:
            y = self.attend(y)
        x = x + drop_path(y, drop_rate, keys[0])
        y = LayerNorm(self.epsilon, self.dtype, name="norm_2")(x)
        y = Mlp(
            (int(width * self.mlp_ratio), width),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            name="mlp",
        )(y)
        return x + drop_path(y, drop_rate, keys[1])

    def attend(self, x: jax.Array) -> jax.Array:
        """Self-attention over the cells of each [..., h, w, D] map, or over the tokens of [B, T, D]."""
        width = x.shape[-1]
        channels = width // self.heads
        lead = x.shape[:-2] if self.grid is None and x.ndim == 3 else x.shape[:-3]
        tokens = x.reshape(*lead, -1, width) if x.ndim > 3 else x
        lead = tokens.shape[:-1]
        qkv = Linear(3 * width, dtype=self.dtype, kernel_init=self.kernel_init, name="qkv")(tokens)
        q, k, v = jnp.moveaxis(qkv.reshape(*lead, 3, self.heads, channels), -3, 0)
        relative = None
        if self.grid is not None:
            table_h, table_w = (
                self.param(f"rel_pos_{axis}", nn.initializers.zeros, (2 * size - 1, channels))
                for axis, size in zip("hw", self.grid, strict=True)
            )
            relative = relative_scores(q, table_h, table_w, x.shape[-3:-1])
        out = attention(q, k, v, relative=relative, impl=self.impl).reshape(tokens.shape)
        return Linear(width, dtype=self.dtype, kernel_init=self.kernel_init, name="proj")(
            out
        ).reshape(x.shape)


REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class ViT(nn.Module):
    """A stack of blocks; parameters are always block_0, block_1, ..., never stacked.

    Attributes:
      window, global_blocks: blocks attend in windows of this side, but for those listed; window 0 attends everywhere.
      grid: (h, w) of the token map for relative positions; None has none. Other maps work too: tables are resized.
      epsilon, kernel_init: of the LayerNorms and of the linear maps.
      drop_path: stochastic depth of the last block; it grows linearly from 0 at the first.
      remat: "none", "full" (keep block inputs only) or "dots" (keep matrix products without batch axes).
      scan: run equal blocks as `lax.scan`, stacking their parameters inside the step: one block to compile
        for the whole depth. Same numbers as without.
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
        """[B, h, w, D] or [B, T, D] -> same shape. In training with drop_path the rng "drop_path" is needed."""
        if self.remat != "none" and self.remat not in REMAT_POLICIES:
            raise ValueError(
                f"remat {self.remat!r} is unknown; choose 'none', "
                + ", ".join(map(repr, REMAT_POLICIES))
            )
        windows = [0 if i in self.global_blocks else self.window for i in range(self.depth)]
        rates = jnp.linspace(0.0, self.drop_path, self.depth)
        keys = None
        if train and self.drop_path > 0:
            keys = jax.random.split(self.make_rng("drop_path"), self.depth)
        if self.scan and not self.is_initializing():
            return self._scanned(x, windows, rates, keys)
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=True, policy=REMAT_POLICIES[self.remat])
        for i, window in enumerate(windows):
            make = block(**self._block_options(window), name=f"block_{i}")
            x = make(x, rates[i], None if keys is None else keys[i])
        return x

    def _block_options(self, window: int) -> dict:
        grid = self.grid if self.grid is None or not window else (window, window)
        options = dict(heads=self.heads, mlp_ratio=self.mlp_ratio, window=window, grid=grid)
        return options | dict(
            epsilon=self.epsilon, kernel_init=self.kernel_init, dtype=self.dtype, impl=self.impl
        )

    def _scanned(
        self, x: jax.Array, windows: list[int], rates: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """Scan over the repeating unit of the stack, and within it over runs of equal blocks (SAM-B: 4 x (2 + 1))."""
        period = next(
            p
            for p in range(1, self.depth + 1)
            if windows == windows[:p] * (self.depth // p) and self.depth % p == 0
        )
        runs, start = [], 0  # of the unit: (window, its first block, behind its last one)
        for window, equal in itertools.groupby(windows[:period]):
            runs.append((window, start, start := start + len(list(equal))))

        params = [self.variables["params"][f"block_{i}"] for i in range(self.depth)]
        stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
        # Legacy keys are rows of two numbers, so values may have axes of their own.
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
        """One block as a function for `lax.scan`: (x, (params, drop rate, key)) -> (x, None)."""

        def step(x, inputs):
            params, rate, key = inputs
            return Block(**self._block_options(window), parent=None).apply(
                {"params": params}, x, rate, key
            ), None

        if self.remat == "none":
            return step
        # Inside scan XLA cannot merge the recomputation with the forward pass, so its guard would only cost.
        return jax.checkpoint(step, prevent_cse=False, policy=REMAT_POLICIES[self.remat])


def encode_patches(
    module: nn.Module, images: jax.Array, *, train: bool = False, cubic: bool = False
) -> jax.Array:
    """Patches, learned positions and the trunk, as SAM and ViTDet have them, inside a compact method of a module.

    Args:
      module: has width, patch, grid, trunk (options of `ViT`) and dtype, and gets patch_embed, pos_embed and trunk.
      images: normalised, [B, H, W, 3]; H and W any multiples of the patch: positions, learned for `grid`, are resized.
      cubic: resize them bicubically, else bilinearly.

    Returns:
      [B, H/patch, W/patch, width].
    """
    x = PatchEmbed(module.width, module.patch, module.dtype, name="patch_embed")(images)
    positions = module.param(
        "pos_embed", nn.initializers.truncated_normal(0.02), (1, *module.grid, module.width)
    )
    if (grid := x.shape[1:3]) != tuple(module.grid):
        weights = cubic_weights if cubic else linear_weights
        rows, columns = (
            jnp.float32(weights(*sizes)) for sizes in zip(module.grid, grid, strict=True)
        )
        positions = jnp.einsum("yh,xw,bhwd->byxd", rows, columns, positions, precision="highest")
    x = x + positions.astype(module.dtype)
    return ViT(**module.trunk, dtype=module.dtype, name="trunk")(x, train=train)
