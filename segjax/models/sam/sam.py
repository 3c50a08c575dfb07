"""Segment Anything (arXiv 2304.02643): encode an image once, then decode any number of prompts."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.sam.image_encoder import ImageEncoder
from segjax.models.sam.mask_decoder import MaskDecoder
from segjax.models.sam.prompt_encoder import PromptEncoder, Prompts
from segjax.models.vit import check_canvas
from segjax.ops.masks import make_content_mask
from segjax.ops.pixels import normalize


class Sam(nn.Module):
    """The promptable segmenter. Sizes are made by `segjax.models.sam.build.build_sam`.

    Attributes:
      canvas: side of the square canvas in pixels for which positions are learned; others work too (they are resized).
      patch: side of a patch in pixels; the mask grid has cells of patch / 4 pixels.
      width, depth, heads, window, global_blocks, rel_pos, drop_path, remat, scan, attention: the encoder (see `ViT`).
      prompt_width: channels of embedding and prompts; decoder_*, iou_sigmoid: the mask decoder.
      prompts_at_once: decode so many of an image's prompts at once, one group after another, with their intermediate
        values computed again for gradients: memory for a group, not for all. 0 decodes all together.
      dtype: of the computation; parameters, norms' statistics, softmax and outputs stay float32.
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
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_sigmoid: bool = False
    drop_path: float = 0.0
    remat: str = "none"
    scan: bool = False
    attention: str = "xla"
    prompts_at_once: int = 0
    dtype: jnp.dtype = jnp.float32

    @property
    def mask_side(self) -> int:
        """Cells of the mask grid along a side of the canvas."""
        return self.canvas // self.patch * 4

    def setup(self) -> None:
        """The three parts. Raises ValueError for a canvas that the patch does not divide."""
        check_canvas(self.canvas, self.patch)
        grid = (self.canvas // self.patch,) * 2
        trunk = dict(
            depth=self.depth, heads=self.heads, window=self.window, global_blocks=self.global_blocks
        )
        trunk |= dict(grid=grid if self.rel_pos else None, drop_path=self.drop_path)
        trunk |= dict(remat=self.remat, scan=self.scan, impl=self.attention)
        self.image_encoder = ImageEncoder(
            trunk, self.width, self.prompt_width, self.patch, grid, self.dtype
        )
        self.prompt_encoder = PromptEncoder(self.prompt_width, self.mask_channels, self.dtype)
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
        """RGB images of values 0..255 to embeddings.

        Args:
          images: [B, H, W, 3], uint8 or float; H and W multiples of the patch.
          sizes: int [B, 2], (height, width) of the content at the top left corner of each canvas; the rest is padding
            and becomes the mean colour, whatever it holds. None: no padding.

        Returns:
          [B, H/patch, W/patch, prompt_width].
        """
        x = normalize(images)
        if sizes is not None:
            x = jnp.where(make_content_mask(sizes, images.shape[1:3])[..., None], x, 0)
        return self.image_encoder(x, train=train)

    def decode(self, embedding: jax.Array, prompts: Prompts) -> tuple[jax.Array, jax.Array]:
        """Masks for B images x P prompts (see `Prompts`), in one call.

        Args:
          embedding: [B, h, w, prompt_width].
          prompts: in pixels of the canvas that was encoded, (h * patch) x (w * patch).

        Returns:
          logits: float32 [B, P, 4, 4h, 4w] on the mask grid, mask where > 0. Index 0 is the mask to use for several
            prompts at once, 1..3 are the three readings of a single ambiguous one.
          iou: float32 [B, P, 4], estimated IoU of each mask.
        """
        if 0 < self.prompts_at_once < prompts.batch[1] and not self.is_initializing():
            return self._decode_in_groups(embedding, prompts)
        grid = embedding.shape[1:3]
        canvas = (grid[0] * self.patch, grid[1] * self.patch)
        tokens, valid, dense = self.prompt_encoder(prompts, canvas, grid)
        return self.mask_decoder(
            embedding, self.prompt_encoder.image_positions(grid), tokens, valid, dense
        )

    def _decode_in_groups(
        self, embedding: jax.Array, prompts: Prompts
    ) -> tuple[jax.Array, jax.Array]:
        size, count = self.prompts_at_once, prompts.batch[1]
        model, variables = self.clone(parent=None, prompts_at_once=0), self.variables

        def grouped(x: jax.Array) -> jax.Array:
            """[B, P, ...] -> [groups, B, size, ...], filled up with zeros."""
            x = jnp.pad(x, [(0, 0), (0, -count % size)] + [(0, 0)] * (x.ndim - 2))
            return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)

        def joined(x: jax.Array) -> jax.Array:
            x = jnp.moveaxis(x, 0, 1)
            return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :count]

        decode = jax.checkpoint(
            lambda group: model.apply(variables, embedding, group, method="decode")
        )
        logits, iou = jax.lax.map(decode, jax.tree.map(grouped, prompts))
        return joined(logits), joined(iou)

    def __call__(
        self,
        images: jax.Array,
        prompts: Prompts,
        sizes: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """`encode_image` and `decode`."""
        return self.decode(self.encode_image(images, sizes, train=train), prompts)
