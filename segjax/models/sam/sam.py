"""Segment Anything (SAM, arXiv 2304.02643): encode an image once, then decode any prompts."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.sam.image_encoder import ImageEncoder
from segjax.models.sam.mask_decoder import MaskDecoder
from segjax.models.sam.prompt_encoder import PromptEncoder, Prompts
from segjax.models.sam.two_way_transformer import Guidance
from segjax.models.vit import check_canvas
from segjax.ops.masks import make_content_mask
from segjax.ops.pixels import normalize, scale_to_range


class Sam(nn.Module):
    """Segment Anything: image encoder, prompt encoder and mask decoder.

    `segjax.models.sam.build.build_sam` builds the published sizes.

    Example:
      >>> from segjax.models.sam.build import build_sam, init_sam
      >>> model = build_sam("sam_debug")
      >>> variables = init_sam(model, jax.random.key(0))
      >>> images = jnp.zeros((1, model.canvas, model.canvas, 3))
      >>> prompts = Prompts(points=jnp.full((1, 1, 1, 2), 20.0), labels=jnp.ones((1, 1, 1)))
      >>> embedding = model.apply(variables, images, method="encode_image")
      >>> logits, iou = model.apply(variables, embedding, prompts, method="decode")

    Attributes:
      canvas: Side of the square canvas in pixels for which positions are learned. On other sizes
        they are resized.
      patch: Side of a patch in pixels. The mask grid has cells of patch / 4 pixels.
      width: Channels of the image encoder.
      depth: Blocks of the image encoder.
      heads: Attention heads of the image encoder.
      window: Side of attention windows in patches. 0: every block is global.
      global_blocks: Indices of blocks with global attention.
      rel_pos: Use decomposed relative positions.
      prompt_width: Channels of the image embedding, of prompts and of the mask decoder.
      mask_channels: Channels of the prompt encoder's mask branch.
      text_width: Channels of the vectors of CLIP that text prompts are. 0: no text prompts.
      decoder_depth: Blocks of the two-way transformer.
      decoder_heads: Attention heads of the mask decoder.
      decoder_mlp: Hidden channels of the mask decoder's MLPs.
      iou_sigmoid: Apply a sigmoid to the predicted IoUs.
      normalization: Of pixel values: "imagenet" (mean color and deviation, as published), or
        "minmax" (each image's values are scaled to 0..1, as MedSAM does).
      drop_path: Rate of stochastic depth in the last block of the image encoder, see `ViT`.
      remat: Rematerialization (gradient checkpointing) of the image encoder, see `ViT`.
      scan: Scan over the blocks of the image encoder, see `ViT`.
      attention: Implementation of the image encoder's attention, see `attention`.
      prompts_at_once: Decode this many prompts of an image at a time, one group after another.
        Gradients recompute intermediate values, so that memory holds one group. 0: decode all
        together.
      dtype: Type of the computation. Parameters, norm statistics, softmax and outputs are float32.
    """

    canvas: int
    patch: int
    width: int
    depth: int
    heads: int
    window: int = 14
    global_blocks: tuple[int, ...] = ()
    rel_pos: bool = True
    prompt_width: int = 256
    mask_channels: int = 16
    text_width: int = 0
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_sigmoid: bool = False
    normalization: str = "imagenet"
    drop_path: float = 0.0
    remat: str = "none"
    scan: bool = False
    attention: str = "xla"
    prompts_at_once: int = 0
    dtype: jnp.dtype = jnp.float32

    @property
    def mask_side(self) -> int:
        """Returns the number of cells of the mask grid along a side of the canvas."""
        return self.canvas // self.patch * 4

    def setup(self) -> None:
        """Creates the three parts.

        Raises:
          ValueError: The patch does not divide the canvas, or an unknown normalization.
        """
        check_canvas(self.canvas, self.patch)
        if self.normalization not in ("imagenet", "minmax"):
            raise ValueError(
                f"normalization is {self.normalization!r}; expected 'imagenet' or 'minmax'"
            )
        grid = (self.canvas // self.patch,) * 2
        trunk = dict(
            depth=self.depth, heads=self.heads, window=self.window, global_blocks=self.global_blocks
        )
        trunk |= dict(grid=grid if self.rel_pos else None, drop_path=self.drop_path)
        trunk |= dict(remat=self.remat, scan=self.scan, impl=self.attention)
        # The three parts, as in the paper's figure 4
        self.image_encoder = ImageEncoder(
            trunk, self.width, self.prompt_width, self.patch, grid, self.dtype
        )
        self.prompt_encoder = PromptEncoder(
            self.prompt_width, self.mask_channels, self.text_width, self.dtype
        )
        self.mask_decoder = MaskDecoder(
            self.prompt_width,
            self.decoder_depth,
            self.decoder_heads,
            self.decoder_mlp,
            self.iou_sigmoid,
            self.dtype,
        )

    def encode_image(
        self, images: jax.Array, sizes: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Computes image embeddings.

        Args:
          images: [B, H, W, 3], RGB, uint8 or float, values 0..255. H and W are multiples of the
            patch.
          sizes: int [B, 2], (height, width) of the content at the top left corner of each canvas.
            The rest is padding and is set to the mean color. None: no padding.
          train: Use stochastic depth.

        Returns:
          [B, H/patch, W/patch, prompt_width].
        """
        content = None
        if sizes is not None:
            content = make_content_mask(sizes, images.shape[1:3])[..., None]
        # Padding becomes 0 after normalization, as in segment-anything.
        x = scale_to_range(images, content) if self.normalization == "minmax" else normalize(images)
        if content is not None:
            x = jnp.where(content, x, 0)
        return self.image_encoder(x, train=train)

    def decode(
        self, embedding: jax.Array, prompts: Prompts, guidance: Guidance | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Predicts masks for P prompts on each of B images.

        Args:
          embedding: [B, h, w, prompt_width], from `encode_image`.
          prompts: In pixels of the canvas that was encoded, (h * patch) x (w * patch).
          guidance: Of an example, see `Guidance`. None: none.

        Returns:
          logits: float32 [B, P, 4, 4h, 4w] on the mask grid, mask where > 0. Index 0 is the mask
            for several points or boxes. Indices 1..3 are the masks of a single ambiguous prompt.
          iou: float32 [B, P, 4], predicted IoU of each mask.
        """
        grouped = 0 < self.prompts_at_once < prompts.batch[1]
        if grouped and guidance is None and not self.is_initializing():
            return self._decode_in_groups(embedding, prompts)
        grid = embedding.shape[1:3]
        canvas = (grid[0] * self.patch, grid[1] * self.patch)
        tokens, valid, dense = self.prompt_encoder(prompts, canvas, grid)
        return self.mask_decoder(
            embedding, self.prompt_encoder.encode_image_grid(grid), tokens, valid, dense, guidance
        )

    def _decode_in_groups(
        self, embedding: jax.Array, prompts: Prompts
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes `prompts_at_once` prompts at a time, in a loop with rematerialization."""
        size, count = self.prompts_at_once, prompts.batch[1]
        model, variables = self.clone(parent=None, prompts_at_once=0), self.variables

        def split_into_groups(x: jax.Array) -> jax.Array:
            """Splits [B, P, ...] into [groups, B, size, ...], padded with zeros."""
            x = jnp.pad(x, [(0, 0), (0, -count % size)] + [(0, 0)] * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

        def join_groups(x: jax.Array) -> jax.Array:
            """Joins [groups, B, size, ...] to [B, P, ...]."""
            x = jnp.moveaxis(x, 0, 1)
            return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :count]

        # Recomputing a group in the backward pass keeps only its inputs in memory.
        decode = jax.checkpoint(
            lambda group: model.apply(variables, embedding, group, method="decode")
        )
        logits, iou = jax.lax.map(decode, jax.tree.map(split_into_groups, prompts))
        return join_groups(logits), join_groups(iou)

    def __call__(
        self,
        images: jax.Array,
        prompts: Prompts,
        sizes: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Runs `encode_image` and `decode`, see there."""
        return self.decode(self.encode_image(images, sizes, train=train), prompts)
