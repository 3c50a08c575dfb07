"""DINO, DINOv2 and DINOv3 as one module: the ViT of this library with their options."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import LayerNorm
from segjax.models.vit import TokenEncoder, check_canvas

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Dino(nn.Module):
    """DINO (arXiv 2104.14294), DINOv2 (2304.07193) or DINOv3 (2508.10104): a ViT without a head.

    `build_dino` builds the published sizes.

    Example:
      >>> model = build_dino("dino_debug")
      >>> variables = init_dino(model, jax.random.key(0))
      >>> model.apply(variables, jnp.zeros((2, 64, 48, 3), jnp.uint8)).shape  # 1 + 8 * 6 tokens
      (2, 49, 32)

    Attributes:
      canvas: side in pixels of the square images that positions are learned for.
      patch: side of a patch in pixels. It divides the canvas.
      width: channels of a token.
      depth: blocks.
      heads: attention heads.
      mlp_ratio: hidden channels of an MLP over the width of a token.
      gated: the MLPs are SwiGLU.
      qkv_bias: queries, keys and values have a bias.
      registers: number of register tokens ("storage tokens" in DINOv3).
      layer_scale: initial value of LayerScale. None: none, as in DINO.
      position_rule: how positions are resized to images of another size: "size", "offset" or
        "antialias", see `position_weights`. "rotary": rotary positions instead of a table.
      mean: mean color of the training images, in units of 0..1.
      std: standard deviation of their colors, in units of 0..1.
      epsilon: added to the variance in the LayerNorms.
      drop_path: drop path rate of the last block, see `ViT`.
      remat: rematerialization (gradient checkpointing), see `ViT`.
      scan: run equal blocks as one scan, see `ViT`.
      attention: implementation of the attention, see `segjax.models.attention.attention`.
      dtype: of the computation. Parameters, statistics of norms and softmax stay float32.
    """

    canvas: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    gated: bool = False
    qkv_bias: bool = True
    registers: int = 0
    layer_scale: float | None = None
    position_rule: str = "offset"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    epsilon: float = 1e-6
    drop_path: float = 0.0
    remat: str = "none"
    scan: bool = False
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches (h, w) of the canvas."""
        return (self.canvas // self.patch,) * 2

    @property
    def has_artifacts(self) -> bool:
        """True for DINOv2 without registers, whose features have outliers (arXiv 2309.16588)."""
        return self.layer_scale is not None and not self.registers

    def setup(self) -> None:
        """Builds the encoder and the last norm.

        Raises:
          ValueError: the patch does not divide the canvas.
        """
        check_canvas(self.canvas, self.patch)
        # Options of the one ViT of this library
        trunk = dict(depth=self.depth, heads=self.heads, mlp_ratio=self.mlp_ratio)
        trunk |= dict(gated=self.gated, activation="silu" if self.gated else "gelu")
        trunk |= dict(qkv_bias=self.qkv_bias, layer_scale=self.layer_scale)
        trunk |= dict(drop_path=self.drop_path, remat=self.remat, scan=self.scan)
        self.vit = TokenEncoder(
            trunk | dict(impl=self.attention),
            self.width,
            self.patch,
            self.grid,
            self.registers,
            epsilon=self.epsilon,
            position_rule=self.position_rule,
            dtype=self.dtype,
        )
        self.norm = LayerNorm(self.epsilon, self.dtype)
        if self.layer_scale is not None:
            # Only training needs it. It is here because the files of DINOv2 and DINOv3 have it.
            self.mask_token = self.param("mask_token", nn.initializers.zeros, (self.width,))

    def __call__(self, images: jax.Array, *, train: bool = False, dense: str = "") -> jax.Array:
        """Computes the normalized tokens of images.

        Args:
          images: RGB [B, H, W, 3] with values 0..255, uint8 or float. H and W are multiples of the
            patch.
          train: True applies drop path.
          dense: attention of the last block for dense features, see `mix_tokens`.

        Returns:
          [B, 1 + registers + h * w, width], the class token first, the patches last, row by row.

        Raises:
          ValueError: images of another shape.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images are {images.shape}; this model takes RGB [B, H, W, 3]")
        for side in images.shape[1:3]:
            check_canvas(side, self.patch)
        mean, std = (jnp.array(x, jnp.float32) for x in (self.mean, self.std))
        images = (images.astype(jnp.float32) / 255 - mean) / std
        return self.norm(self.vit(images, train=train, dense=dense))

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Computes the features of patches, [B, h, w, width], see `__call__`."""
        grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        return self(images)[:, 1 + self.registers :].reshape(len(images), *grid, self.width)
