"""CLIP as one module: both towers and the temperature."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.clip.towers import ImageTower, TextTower
from segjax.models.vit import check_canvas

INITIAL_SCALE = math.log(1 / 0.07)  # paper, section 2.5
# Statistics of OpenAI's training images, in units of 0..1
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
RESIZES = ("crop", "squash")


class ClipModel(nn.Module):
    """CLIP: an image tower, a text tower, and a learned temperature (arXiv 2103.00020).

    `build_clip` builds the published and the small sizes. `segjax.Clip` is the interface for
    images and texts; this module takes arrays.

    Example:
      >>> model = build_clip("clip_debug")
      >>> variables = init_clip(model, jax.random.key(0))
      >>> images, ids = jnp.zeros((2, 32, 32, 3), jnp.uint8), jnp.zeros((3, 16), jnp.int32)
      >>> [x.shape for x in model.apply(variables, images, ids)]
      [(2, 16), (3, 16), ()]

    Attributes:
      canvas: side of the square images in pixels.
      patch: side of a patch in pixels. It divides the canvas.
      width: channels of a token of the image tower.
      depth: blocks of the image tower.
      heads: attention heads of the image tower.
      text_width: channels of a token of the text tower.
      text_depth: blocks of the text tower.
      text_heads: attention heads of the text tower.
      embedding: channels of the shared space.
      context: number of tokens of a text, its ends among them.
      vocabulary: number of token ids.
      tokenizer: name of the tokenizer, see `segjax.text.tokenizers.load_tokenizer`.
      activation: of the MLPs. OpenAI's weights need "quick_gelu", most of open_clip's "gelu".
      resize: how an image becomes a square. "crop" resizes its shorter side and takes the center,
        "squash" changes its aspect ratio.
      interpolation: of that resize, "bicubic" or "bilinear".
      mean: mean color of the training images, in units of 0..1.
      std: standard deviation of their colors, in units of 0..1.
      epsilon: added to the variance in the LayerNorms.
      remat: rematerialization (gradient checkpointing), see `ViT`.
      scan: run equal blocks as one scan, see `ViT`.
      attention: implementation of the attention, see `segjax.models.attention.attention`.
      dtype: of the computation. Parameters, statistics of norms, softmax and vectors stay float32.
    """

    canvas: int
    patch: int
    width: int
    depth: int
    heads: int
    text_width: int
    text_depth: int
    text_heads: int
    embedding: int
    context: int = 77
    vocabulary: int = 49408
    tokenizer: str = "clip"
    activation: str = "quick_gelu"
    resize: str = "crop"
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD
    epsilon: float = 1e-5
    remat: str = "none"
    scan: bool = False
    attention: str = "xla"
    dtype: jnp.dtype = jnp.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches (h, w)."""
        return (self.canvas // self.patch,) * 2

    def setup(self) -> None:
        """Builds the towers.

        Raises:
          ValueError: a canvas that the patch does not divide, or an unknown way to resize.
        """
        check_canvas(self.canvas, self.patch)
        if self.resize not in RESIZES:
            raise ValueError(f"resize is {self.resize!r}; choose one of {', '.join(RESIZES)}")
        shared = dict(embedding=self.embedding, epsilon=self.epsilon, dtype=self.dtype)
        self.image = ImageTower(
            self._describe_trunk(self.width, self.depth, self.heads),
            width=self.width,
            patch=self.patch,
            grid=self.grid,
            **shared,
        )
        self.text = TextTower(
            self._describe_trunk(self.text_width, self.text_depth, self.text_heads),
            width=self.text_width,
            context=self.context,
            vocabulary=self.vocabulary,
            **shared,
        )
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(INITIAL_SCALE), ())

    def _describe_trunk(self, width: int, depth: int, heads: int) -> dict:
        """Returns the options of a tower's ViT, initialized as in the paper's code."""
        normal = nn.initializers.normal
        options = dict(depth=depth, heads=heads, activation=self.activation)
        options |= dict(remat=self.remat, scan=self.scan, impl=self.attention)
        return options | dict(
            kernel_init=normal(width**-0.5), output_init=normal((2 * depth * width) ** -0.5)
        )

    def encode_image(
        self, images: jax.Array, *, train: bool = False, masks: jax.Array | None = None
    ) -> jax.Array:
        """Computes the vectors of images, or of masks by masked attention.

        Args:
          images: RGB [B, H, W, 3] with values 0..255, uint8 or float. H and W are multiples of the
            patch; positions are resized if they are not the canvas.
          train: True applies drop path.
          masks: bool [B, K, 1 + h * w], tokens that the class token sees in the last block. The
            first is the class token.

        Returns:
          float32 [B, embedding], or [B, K, embedding] with masks. Not normalized.
        """
        return self.image(self._normalize_pixels(images), train=train, masks=masks)

    def describe_patches(self, images: jax.Array, dense: str = "self_similarity") -> jax.Array:
        """Computes a vector for each patch, float32 [B, h, w, embedding]. Not normalized.

        Args:
          images: as for `encode_image`.
          dense: "values" (MaskCLIP) or "self_similarity" (SCLIP), see `mix_tokens`.
        """
        return self.image.describe_patches(self._normalize_pixels(images), dense)

    def encode_text(self, ids: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes the vectors of texts, float32 [N, embedding]. Not normalized.

        Args:
          ids: int32 [N, context], token ids.
          train: True applies drop path.
        """
        return self.text(ids, train=train)

    def __call__(
        self, images: jax.Array, ids: jax.Array, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Computes the normalized vectors of images and texts, and the scale of their products.

        Args:
          images: as for `encode_image`.
          ids: as for `encode_text`.
          train: True applies drop path.

        Returns:
          float32 [B, embedding] and [N, embedding], of length 1, and the scale exp(logit_scale).
        """
        images = normalize_vectors(self.encode_image(images, train=train))
        texts = normalize_vectors(self.encode_text(ids, train=train))
        return images, texts, jnp.exp(self.logit_scale)

    def _normalize_pixels(self, images: jax.Array) -> jax.Array:
        """Returns images with about zero mean and unit variance, in float32."""
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images are {images.shape}; this CLIP takes RGB [B, H, W, 3]")
        for side in images.shape[1:3]:
            check_canvas(side, self.patch)
        mean, std = (jnp.array(x, jnp.float32) for x in (self.mean, self.std))
        return (images.astype(jnp.float32) / 255 - mean) / std


def normalize_vectors(vectors: jax.Array) -> jax.Array:
    """Scales vectors [..., E] to length 1. Zero vectors stay zero."""
    length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.maximum(length, 1e-12)
