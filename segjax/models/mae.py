"""Masked autoencoder (MAE, arXiv 2111.06377): encode visible patches, decode masked pixels."""

import logging
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.family import Family, describe_vit
from segjax.models.layers import LayerNorm, Linear
from segjax.models.sizes import build_from_size
from segjax.models.vit import PatchEmbed, ViT, check_canvas
from segjax.ops.patches import count_visible, draw_mask_noise, split_patches
from segjax.ops.pixels import normalize_channels
from segjax.ops.positions import make_position_table, make_sincos_positions

logger = logging.getLogger(__name__)

# MAE, appendix A.1: Xavier-uniform linear layers, among them the patch embedding.
xavier = nn.initializers.xavier_uniform()
patch_xavier = nn.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=(0, 1, 2), out_axis=3
)
token_normal = nn.initializers.normal(0.02)


class MaeEncoder(nn.Module):
    """Encoder of a MAE or of a classifier: a ViT with a class token.

    Attributes:
      trunk: options of `ViT`.
      width: channels of a token.
      patch: side of a patch in pixels.
      epsilon: added to the variance in the LayerNorms.
      dtype: of the computation.
      learned_positions: the position table is a parameter, initialized with MAE's fixed table. Row
        0 is the class token's.
      pool: "" returns all tokens, "token" the class token, "mean" the mean of the patches' tokens.
        "mean" has a LayerNorm of its own after the mean ("fc_norm", MAE, appendix A.1).
    """

    trunk: dict
    width: int
    patch: int
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    learned_positions: bool = False
    pool: str = ""

    @nn.compact
    def __call__(
        self, images: jax.Array, visible: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Encodes the visible patches of images.

        Args:
          images: normalized, [B, H, W, C].
          visible: int [B, T], indices of the visible patches, counted row by row. None: all L of
            them, in order.
          train: True applies drop path, which needs the rng "drop_path".

        Returns:
          Tokens [B, 1 + T, width], the class token first, or pooled tokens [B, width].
        """
        grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        bound = (
            images.shape[-1] * self.patch**2
        ) ** -0.5  # the bias starts as those of torch's convolutions

        def bias_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        # Patch embedding and positions
        embed = PatchEmbed(
            self.width, self.patch, self.dtype, patch_xavier, bias_init, name="patch_embed"
        )
        x = embed(images, visible)
        table = make_position_table(grid, self.width)
        if self.learned_positions:
            table = self.param("pos_embed", lambda _: jnp.asarray(table))
        table = jnp.asarray(table, self.dtype)
        x = x.reshape(x.shape[0], -1, self.width) + (
            table[1:] if visible is None else table[1:][visible]
        )

        # Class token
        token = self.param("cls_token", token_normal, (self.width,)).astype(self.dtype) + table[0]
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)

        # Blocks, pooling and norm
        x = ViT(**self.trunk, name="trunk")(x, train=train)
        if self.pool:
            x = x[:, 0] if self.pool == "token" else x[:, 1:].mean(axis=1)
        return LayerNorm(
            self.epsilon, self.dtype, name="fc_norm" if self.pool == "mean" else "norm"
        )(x)


class MaeDecoder(nn.Module):
    """Decoder of a MAE: predicts the pixels of all patches from tokens of the visible ones.

    Attributes:
      trunk: options of `ViT`.
      width: channels of a token.
      patch: side of a patch in pixels.
      epsilon: added to the variance in the LayerNorms.
      dtype: of the computation.
      channels: channels of a pixel.
    """

    trunk: dict
    width: int
    patch: int
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    channels: int = 3

    @nn.compact
    def __call__(self, tokens: jax.Array, restore: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Decodes the encoder's tokens.

        Args:
          tokens: [B, 1 + T, D], the class token first.
          restore: int [B, L], index of each patch in the order of the noise, see `split_patches`.
          grid: (h, w), with h * w = L.

        Returns:
          float32 [B, L, patch * patch * C], pixels ordered (row, column, channel).
        """
        x = Linear(self.width, dtype=self.dtype, kernel_init=xavier, name="embed")(tokens)

        # Mask tokens in place of the masked patches, then all tokens in the order of the grid
        mask_token = self.param("mask_token", token_normal, (self.width,)).astype(self.dtype)
        missing = restore.shape[1] + 1 - x.shape[1]
        patches = jnp.concatenate(
            [x[:, 1:], jnp.broadcast_to(mask_token, (len(x), missing, self.width))], axis=1
        )
        patches = jnp.take_along_axis(patches, restore[..., None], axis=1)
        patches = patches + jnp.asarray(
            make_sincos_positions(grid, self.width).reshape(-1, self.width), self.dtype
        )

        # Blocks and pixels
        x = ViT(**self.trunk, name="trunk")(jnp.concatenate([x[:, :1], patches], axis=1))
        x = LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        x = Linear(
            self.patch**2 * self.channels, dtype=self.dtype, kernel_init=xavier, name="predict"
        )(x)
        return x[:, 1:].astype(jnp.float32)


class Mae(nn.Module):
    """Masked autoencoder. `build_mae` builds the published and the small sizes.

    Example:
      >>> model = build_mae("mae_debug")
      >>> images = jnp.zeros((2, 64, 64, 3), jnp.uint8)
      >>> variables = init_mae(model, jax.random.key(0))
      >>> prediction, masked = model.apply(variables, images, rngs={"mask": jax.random.key(1)})
      >>> prediction.shape, int(masked.sum())
      ((2, 16, 768), 24)

    Attributes:
      canvas: side of the square images in pixels, or their (height, width).
      patch: side of a patch in pixels. It divides the canvas.
      width: channels of an encoder token.
      depth: blocks of the encoder.
      heads: attention heads of the encoder.
      decoder_width: channels of a decoder token.
      decoder_depth: blocks of the decoder. 1 costs little accuracy in fine-tuning, and saves more
        time the smaller the encoder is.
      decoder_heads: attention heads of the decoder.
      mask_ratio: share of the patches that are masked.
      mask_strategy: "random" (random masking), "block" or "grid", see `draw_mask_noise`.
      norm_pix: the pixels to predict are normalized patch by patch, see
        `segjax.losses.reconstruction`.
      epsilon: added to the variance in the LayerNorms. 1e-6 in the paper's code, 1e-12 by default
        in transformers.
      drop_path: drop path rate of the encoder's last block, see `ViT`.
      remat: rematerialization (gradient checkpointing), see `ViT`.
      scan: run equal blocks as one scan, see `ViT`.
      attention: implementation of the attention, see `segjax.models.attention.attention`.
      dtype: of the computation. Parameters, statistics of norms, softmax and predictions stay
        float32.
      channels: channels C of the images, 3 for RGB. See `segjax.ops.pixels.normalize_channels`.
    """

    canvas: int | tuple[int, int]
    patch: int
    width: int
    depth: int
    heads: int
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    mask_strategy: str = "random"
    norm_pix: bool = True
    epsilon: float = 1e-6
    drop_path: float = 0.0
    remat: str = "none"
    scan: bool = False
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32
    channels: int = 3

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (height, width, C) of the images."""
        sides = (self.canvas,) * 2 if isinstance(self.canvas, int) else tuple(self.canvas)
        return (*sides, self.channels)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches (h, w)."""
        height, width, _ = self.image_shape
        return height // self.patch, width // self.patch

    def setup(self) -> None:
        """Builds encoder and decoder.

        Raises:
          ValueError: the patch does not divide the canvas.
        """
        for side in self.image_shape[:2]:
            check_canvas(side, self.patch)
        shared = dict(epsilon=self.epsilon, dtype=self.dtype)
        trunk = shared | dict(
            kernel_init=xavier, remat=self.remat, scan=self.scan, impl=self.attention
        )
        # The decoder has no drop path
        encoder = trunk | dict(depth=self.depth, heads=self.heads, drop_path=self.drop_path)
        decoder = trunk | dict(depth=self.decoder_depth, heads=self.decoder_heads)
        self.encoder = MaeEncoder(encoder, self.width, self.patch, **shared)
        self.decoder = MaeDecoder(
            decoder, self.decoder_width, self.patch, channels=self.channels, **shared
        )

    def encode_image(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Encodes all patches of images.

        Args:
          images: [B, height, width, C] with values 0..255, uint8 or float.
          train: True applies drop path.

        Returns:
          Tokens [B, 1 + L, width], the class token first.
        """
        return self.encoder(self._normalize(images), train=train)

    def encode_visible(
        self, images: jax.Array, noise: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Masks images and encodes the visible patches.

        Args:
          images: [B, height, width, C] with values 0..255, uint8 or float.
          noise: [B, L]. The patches with the lowest values are visible. None: drawn with the rng
            "mask", see `draw_noise`.
          train: True applies drop path.

        Returns:
          tokens: [B, 1 + T, width], the class token first, the others in the order of the noise.
          restore: int32 [B, L], see `split_patches`.
          masked: bool [B, L], True for masked patches.

        Raises:
          ValueError: images of another size, a mask ratio outside (0, 1), or one that leaves no
            patch.
        """
        # Noise decides which patches are visible
        patches = self.grid[0] * self.grid[1]
        count = count_visible(patches, self.mask_ratio)
        if noise is None:
            keys = jax.random.split(self.make_rng("mask"), len(images))
            noise = self.draw_noise(keys)
        elif noise.shape != (len(images), patches):
            raise ValueError(
                f"noise has shape {noise.shape}; expected [B, L] = {(len(images), patches)}"
            )
        visible, restore, masked = split_patches(noise, count)
        return self.encoder(self._normalize(images), visible, train=train), restore, masked

    def draw_noise(self, keys: jax.Array) -> jax.Array:
        """Draws the noise [B, L] of the mask strategy from B typed PRNG keys, one per image."""
        return jax.vmap(lambda key: draw_mask_noise(key, self.grid, self.mask_strategy))(keys)

    def __call__(
        self, images: jax.Array, noise: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Masks images, encodes the visible patches and predicts all patches.

        Args:
          images: as for `encode_visible`.
          noise: as for `encode_visible`.
          train: True applies drop path.

        Returns:
          prediction: float32 [B, L, patch * patch * C], pixels ordered (row, column, channel).
          masked: bool [B, L], True for masked patches.
        """
        tokens, restore, masked = self.encode_visible(images, noise, train=train)
        return self.decoder(tokens, restore, self.grid), masked

    def _normalize(self, images: jax.Array) -> jax.Array:
        if images.shape[1:] != self.image_shape:
            kind = "RGB " if self.channels == 3 else ""
            shape = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"images are {images.shape}; this MAE takes {kind}[B, {shape}]: resize them, or "
                f"build it with another canvas (a multiple of the patch, {self.patch}) or channels"
            )
        return normalize_channels(images)


_SMALL = dict(decoder_width=64, decoder_depth=2, decoder_heads=4)

SIZES = {
    # arXiv 2111.06377, appendix A: ViT-B/16, L/16 and H/14 with one decoder.
    "mae_vit_b": dict(canvas=224, patch=16, width=768, depth=12, heads=12),
    "mae_vit_l": dict(canvas=224, patch=16, width=1024, depth=24, heads=16),
    "mae_vit_h": dict(canvas=224, patch=14, width=1280, depth=32, heads=16),
    # Small sizes of segjax: the encoders of sam_tiny and sam_debug.
    "mae_tiny": _SMALL | dict(canvas=128, patch=16, width=128, depth=4, heads=4),
    "mae_debug": dict(canvas=64, patch=16, width=32, depth=2, heads=2)
    | dict(decoder_width=16, decoder_depth=2, decoder_heads=2),
}


def build_mae(name: str, **overrides: Any) -> Mae:
    """Builds a MAE by name.

    Args:
      name: a key of `SIZES`.
      overrides: attributes of `Mae` to replace. `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    return build_from_size(Mae, SIZES, name, overrides)


def init_mae(model: Mae, key: jax.Array) -> dict:
    """Draws fresh variables {"params", "constants"}. Traceable, see `jax.eval_shape`."""
    # Noise is passed, so that initialization needs no "mask" rng
    image = jnp.zeros((1, *model.image_shape))
    noise = jnp.zeros((1, model.grid[0] * model.grid[1]))
    return {"params": model.init(key, image, noise)["params"], "constants": {}}


def fit_mae_canvas(variables: Mapping[str, Any], stored: Mae, model: Mae) -> Mapping[str, Any]:
    """Returns the variables as they are and logs the new grid: a MAE's positions are computed.

    Raises:
      ValueError: the patch does not divide the canvas.
    """
    for side in model.image_shape[:2]:
        check_canvas(side, model.patch)
    old, new = (" x ".join(map(str, one.grid)) for one in (stored, model))
    logger.info(
        "MAE of %s pixels on a canvas of %s: positions computed for %s patches instead of %s",
        *(stored.canvas, model.canvas, new, old),
    )
    return variables


FAMILY = Family(
    title="MAE",
    module=Mae,
    sizes=SIZES,
    build=build_mae,
    init=init_mae,
    task="reconstruction",
    name_tables=("segjax.weights.tables.mae:MAE",),
    usage=(
        "`segjax reconstruct` shows how a MAE completes an image, and --config.init_from=mae:PATH "
        "trains a SAM or a detector from it"
    ),
    origin="experiments/mae trains one",
    describe_encoder=describe_vit,
    encoder=lambda model, variables: variables["params"]["encoder"],
    fit_encoder=lambda model, size: model.clone(canvas=size),
    fit_canvas=fit_mae_canvas,
    recognize="segjax.inference.recognize:recognize_vit",
)
