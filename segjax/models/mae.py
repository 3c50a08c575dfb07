"""Masked autoencoders (arXiv 2111.06377): encode the few patches that are seen, decode the pixels of the others."""

import logging
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.family import Family, describe_vit
from segjax.models.layers import LayerNorm, Linear
from segjax.models.sizes import sized
from segjax.models.vit import PatchEmbed, ViT, check_canvas
from segjax.ops.patches import draw_mask_noise, split_patches, count_visible
from segjax.ops.pixels import normalize
from segjax.ops.positions import make_position_table, make_sincos_positions

logger = logging.getLogger(__name__)

# MAE, appendix A.1: Xavier-uniform linear maps, and the patches' projection is one of them.
xavier = nn.initializers.xavier_uniform()
patch_xavier = nn.initializers.variance_scaling(
    1.0, "fan_avg", "uniform", in_axis=(0, 1, 2), out_axis=3
)
token_normal = nn.initializers.normal(0.02)


class MaeEncoder(nn.Module):
    """Normalised images [B, H, W, 3] -> tokens [B, 1 + T, width], the class token first.

    Attributes:
      learned_positions: the table is a parameter, which starts as MAE's fixed one; row 0 is the class token's.
      pool: "token" gives the class token alone, [B, width]; "mean" the mean of the patches' tokens, whose LayerNorm is
        another one, behind the mean ("fc_norm", MAE, appendix A.1).
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
        self, images: jax.Array, seen: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """seen: int [B, T], the patches to encode, counted row by row; None encodes all of them, in that order."""
        grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        bound = (3 * self.patch**2) ** -0.5  # the bias alone starts as torch's convolutions do

        def bias_init(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        embed = PatchEmbed(
            self.width, self.patch, self.dtype, patch_xavier, bias_init, name="patch_embed"
        )
        x = embed(images, seen)
        table = make_position_table(grid, self.width)
        if self.learned_positions:
            table = self.param("pos_embed", lambda _: jnp.asarray(table))
        table = jnp.asarray(table, self.dtype)
        x = x.reshape(x.shape[0], -1, self.width) + (table[1:] if seen is None else table[1:][seen])
        token = self.param("cls_token", token_normal, (self.width,)).astype(self.dtype) + table[0]
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = ViT(**self.trunk, name="trunk")(x, train=train)
        if self.pool:
            x = x[:, 0] if self.pool == "token" else x[:, 1:].mean(axis=1)
        return LayerNorm(
            self.epsilon, self.dtype, name="fc_norm" if self.pool == "mean" else "norm"
        )(x)


class MaeDecoder(nn.Module):
    """Tokens [B, 1 + T, D] of the patches that were seen -> float32 [B, L, patch * patch * 3], all patches."""

    trunk: dict
    width: int
    patch: int
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, restore: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """restore: int [B, L], see `split_patches`. grid: (h, w) with h * w = L."""
        x = Linear(self.width, dtype=self.dtype, kernel_init=xavier, name="embed")(tokens)
        mask_token = self.param("mask_token", token_normal, (self.width,)).astype(self.dtype)
        missing = restore.shape[1] + 1 - x.shape[1]
        patches = jnp.concatenate(
            [x[:, 1:], jnp.broadcast_to(mask_token, (len(x), missing, self.width))], axis=1
        )
        patches = jnp.take_along_axis(patches, restore[..., None], axis=1)
        patches = patches + jnp.asarray(
            make_sincos_positions(grid, self.width).reshape(-1, self.width), self.dtype
        )
        x = ViT(**self.trunk, name="trunk")(jnp.concatenate([x[:, :1], patches], axis=1))
        x = LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        x = Linear(self.patch**2 * 3, dtype=self.dtype, kernel_init=xavier, name="predict")(x)
        return x[:, 1:].astype(jnp.float32)


class Mae(nn.Module):
    """The masked autoencoder. Sizes are made by `build_mae`.

    Attributes:
      canvas: side in pixels of the square pictures it takes.
      patch: side of a patch in pixels; divides the canvas.
      width, depth, heads, drop_path, remat, scan, attention: the encoder (see `ViT`).
      decoder_width, decoder_depth, decoder_heads: the decoder, the paper's for every encoder; one of depth 1 costs
        little accuracy in fine-tuning and saves more the smaller the encoder is.
      mask_ratio: share of the patches that is masked. mask_strategy: "random", "block" or "grid" (see `draw_mask_noise`).
      norm_pix: predictions are of pixels normalised patch by patch (see `segjax.losses.reconstruction`).
      epsilon: of every LayerNorm; 1e-6 in the paper's code, 1e-12 by default in transformers' configuration.
      dtype: of the computation; parameters, norms' statistics, softmax and predictions stay float32.
    """

    canvas: int
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

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patches."""
        return (self.canvas // self.patch,) * 2

    def setup(self) -> None:
        """The two halves. Raises ValueError for a canvas that the patch does not divide."""
        check_canvas(self.canvas, self.patch)
        same = dict(epsilon=self.epsilon, dtype=self.dtype)
        trunk = same | dict(
            kernel_init=xavier, remat=self.remat, scan=self.scan, impl=self.attention
        )
        encoder = trunk | dict(depth=self.depth, heads=self.heads, drop_path=self.drop_path)
        decoder = trunk | dict(depth=self.decoder_depth, heads=self.decoder_heads)
        self.encoder = MaeEncoder(encoder, self.width, self.patch, **same)
        self.decoder = MaeDecoder(decoder, self.decoder_width, self.patch, **same)

    def encode_image(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """RGB [B, canvas, canvas, 3] of values 0..255, nothing masked -> [B, 1 + L, width], the class token first."""
        return self.encoder(self._normalised(images), train=train)

    def encode_seen(
        self, images: jax.Array, noise: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Encodes the patches that masking leaves.

        Args:
          images: RGB [B, canvas, canvas, 3] of values 0..255, uint8 or float.
          noise: [B, L]; the patches with the lowest numbers are seen. None draws it with the rng "mask".

        Returns:
          tokens [B, 1 + T, width] in the order of the noise, the class token first; restore int32 [B, L] and masked
          bool [B, L] of `split_patches`.

        Raises:
          ValueError: images of another size, a mask ratio outside (0, 1) or one that leaves no patch.
        """
        patches = self.grid[0] * self.grid[1]
        visible = count_visible(patches, self.mask_ratio)
        if noise is None:
            keys = jax.random.split(self.make_rng("mask"), len(images))
            noise = self.noise(keys)
        elif noise.shape != (len(images), patches):
            raise ValueError(
                f"noise has shape {noise.shape}; expected [B, L] = {(len(images), patches)}"
            )
        seen, restore, masked = split_patches(noise, visible)
        return self.encoder(self._normalised(images), seen, train=train), restore, masked

    def noise(self, keys: jax.Array) -> jax.Array:
        """The noise [B, L] that B typed keys draw with this model's strategy; a picture's does not depend on others."""
        return jax.vmap(lambda key: draw_mask_noise(key, self.grid, self.mask_strategy))(keys)

    def __call__(
        self, images: jax.Array, noise: jax.Array | None = None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Masks, encodes and decodes; arguments as `encode_seen`.

        Returns:
          prediction: float32 [B, L, patch * patch * 3], every patch, its values ordered (row, column, channel).
          masked: bool [B, L], True for the patches that the encoder did not see.
        """
        tokens, restore, masked = self.encode_seen(images, noise, train=train)
        return self.decoder(tokens, restore, self.grid), masked

    def _normalised(self, images: jax.Array) -> jax.Array:
        if images.shape[1:] != (self.canvas, self.canvas, 3):
            raise ValueError(
                f"images are {images.shape}; this MAE takes RGB [B, {self.canvas}, {self.canvas}, 3]: resize them, or "
                f"build it with another canvas (a multiple of the patch, {self.patch})"
            )
        return normalize(images)


_SMALL = dict(decoder_width=64, decoder_depth=2, decoder_heads=4)

SIZES = {
    # arXiv 2111.06377, appendix A: ViT-B/16, L/16 and H/14 with one decoder.
    "mae_vit_b": dict(canvas=224, patch=16, width=768, depth=12, heads=12),
    "mae_vit_l": dict(canvas=224, patch=16, width=1024, depth=24, heads=16),
    "mae_vit_h": dict(canvas=224, patch=14, width=1280, depth=32, heads=16),
    # Ours: the encoders of sam_tiny and sam_debug.
    "mae_tiny": _SMALL | dict(canvas=128, patch=16, width=128, depth=4, heads=4),
    "mae_debug": dict(canvas=64, patch=16, width=32, depth=2, heads=2)
    | dict(decoder_width=16, decoder_depth=2, decoder_heads=2),
}


def build_mae(name: str, **overrides) -> Mae:
    """A MAE by name, with any attribute of `Mae` replaced; `dtype` may be a string.

    Raises:
      ValueError: unknown size or attribute, naming the nearest ones.
    """
    return sized(Mae, SIZES, name, overrides)


def init_mae(model: Mae, key: jax.Array) -> dict:
    """Fresh variables {"params", "constants"} of a MAE; traceable, so `jax.eval_shape` gives the shapes alone."""
    image = jnp.zeros((1, model.canvas, model.canvas, 3))
    noise = jnp.zeros((1, model.grid[0] * model.grid[1]))
    return {"params": model.init(key, image, noise)["params"], "constants": {}}


def fit_mae_canvas(variables: Mapping[str, Any], stored: Mae, model: Mae) -> Mapping[str, Any]:
    """Returns the variables as they are and logs the new grid: a MAE's positions are computed.

    Raises:
      ValueError: the patch does not divide the canvas.
    """
    check_canvas(model.canvas, model.patch)
    sides = [" x ".join(map(str, one.grid)) for one in (stored, model)]
    logger.info("MAE of %d pixels on a canvas of %d: positions computed for %s patches instead of %s",
                stored.canvas, model.canvas, *reversed(sides))  # fmt: skip
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
    fit_canvas=fit_mae_canvas,
    recognize="segjax.inference.recognize:recognize_vit",
)
