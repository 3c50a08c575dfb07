"""SAM's mask decoder: output tokens, two-way attention, hypernetworks and the IoU prediction head.

SAM, section 3 ("Mask decoder") and appendix A. Each of four mask tokens becomes the filter of one
mask. A small MLP, called a hypernetwork, maps the token to a vector. The dot products of that
vector with the upscaled image embedding are the mask's logits.

Ambiguity: one click can mean a whole, a part or a subpart. Mask tokens 1 to 3 therefore predict
three masks for an ambiguous prompt, and token 0 predicts the one mask for several prompts.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import LayerNorm, Mlp, Upscale, gelu, torch_conv
from segjax.models.sam.two_way_transformer import Guidance, TwoWayTransformer
from segjax.ops.resize import depth_to_space

MASKS = 4  # mask 0 is for several prompts, masks 1..3 are for one ambiguous prompt


class MaskDecoder(nn.Module):
    """Mask decoder: maps image embeddings and prompt tokens to masks and predicted IoUs.

    Attributes:
      width: Channels of the image embedding and of tokens.
      depth: Blocks of the two-way transformer.
      heads: Heads of its attention.
      mlp_width: Hidden channels of its MLPs.
      iou_sigmoid: Apply a sigmoid to the predicted IoUs, as sam2 does and SAM does not.
      dtype: Type of the computation.
    """

    width: int
    depth: int = 2
    heads: int = 8
    mlp_width: int = 2048
    iou_sigmoid: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        embedding: jax.Array,
        image_positions: jax.Array,
        tokens: jax.Array,
        token_valid: jax.Array,
        dense: jax.Array,
        guidance: Guidance | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes every prompt of every image in one call.

        Args:
          embedding: [B, h, w, D], image embedding.
          image_positions: [h, w, D], positional encoding of its cells.
          tokens: [B, P, T, D], prompt tokens.
          token_valid: bool [B, P, T], False where there is no token.
          dense: [B or 1, P or 1, h or 1, w or 1, D], encoded mask prompts. They are added to the
            image embedding.
          guidance: of an example, see `Guidance`.

        Returns:
          logits: float32 [B, P, 4, 4h, 4w], mask where > 0. Index 0 is the mask for several
            prompts, 1..3 are the masks of one ambiguous prompt.
          iou: float32 [B, P, 4], predicted IoU of each mask.
        """
        batch, h, w, _ = embedding.shape
        prompts = tokens.shape[1]

        # Output tokens (one for the IoUs, one per mask), followed by the prompt tokens
        normal = nn.initializers.normal(1.0)
        iou_token = self.param("iou_token", normal, (1, self.width))
        mask_tokens = self.param("mask_tokens", normal, (MASKS, self.width))
        own = jnp.concatenate([iou_token, mask_tokens]).astype(self.dtype)
        own = jnp.broadcast_to(own, (batch, prompts, *own.shape))
        tokens = jnp.concatenate([own, tokens], axis=2)
        token_valid = jnp.concatenate(
            [jnp.ones((batch, prompts, MASKS + 1), bool), token_valid], axis=2
        )

        # Two-way attention between tokens and image
        image = embedding[:, None] + dense
        transformer = TwoWayTransformer(
            self.depth, self.heads, self.mlp_width, self.dtype, name="transformer"
        )
        positions = image_positions.reshape(h * w, self.width).astype(self.dtype)
        tokens, image = transformer(
            image.reshape(batch, -1, h * w, self.width), positions, tokens, token_valid, guidance
        )

        # Image embedding, upscaled to 4h x 4w. The cells are put in place after the products.
        x = Upscale(self.width // 4, self.dtype, name="upscale_1")(image)
        x = gelu(LayerNorm(dtype=self.dtype, name="upscale_norm")(x))
        x = gelu(Upscale(self.width // 8, self.dtype, name="upscale_2")(x))

        # Hypernetworks: each mask token becomes a filter, whose products are the mask's logits
        mlp = lambda out, name: Mlp(
            (self.width, self.width, out),
            jax.nn.relu,
            self.dtype,
            kernel_init=torch_conv,
            name=name,
        )
        filters = [
            mlp(self.width // 8, f"hypernetwork_{i}")(tokens[:, :, i + 1]) for i in range(MASKS)
        ]
        logits = _apply_filters(jnp.stack(filters, axis=2), x, (h, w))

        # IoU prediction head
        iou = mlp(MASKS, "iou_head")(tokens[:, :, 0]).astype(jnp.float32)
        return logits, jax.nn.sigmoid(iou) if self.iou_sigmoid else iou


def _apply_filters(filters: jax.Array, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Multiplies the filters of the hypernetworks with the upscaled image embedding.

    Args:
      filters: [B, P, 4, C], one per mask.
      x: [B, P, h*w, 4, 4, C], upscaled embedding. Each cell has 4 parts, each with 4 parts.
      grid: (h, w).

    Returns:
      float32 [B, P, 4, 4h, 4w], mask logits.
    """
    x = x.reshape(*x.shape[:2], -1, x.shape[-1])
    logits = jnp.einsum("bpmc,bpnc->bpmn", filters, x, preferred_element_type=jnp.float32)
    # Put the 16 parts of every cell in place.
    logits = logits.reshape(*logits.shape[:3], *grid, 16)
    return depth_to_space(depth_to_space(logits, 2), 2)[..., 0]
