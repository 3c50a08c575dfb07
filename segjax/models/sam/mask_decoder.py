"""SAM's mask decoder: four mask tokens, hypernetworks over an upscaled embedding, and an IoU estimate for each mask."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import LayerNorm, Mlp, Upscale, gelu, torch_conv
from segjax.models.sam.two_way_transformer import TwoWayTransformer
from segjax.ops.resize import depth_to_space

MASKS = 4  # token 0 answers several prompts with one mask; tokens 1..3 answer an ambiguous one with three


class MaskDecoder(nn.Module):
    """Image embedding and prompt tokens to mask logits and predicted IoUs.

    Attributes:
      width: channels of embedding and tokens; depth, heads, mlp_width: of the two-way transformer.
      iou_sigmoid: squash the predicted IoUs into (0, 1). (sam2; SAM leaves them as they are.)
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
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes every prompt of every image in one call.

        Args:
          embedding: [B, h, w, D].
          image_positions: [h, w, D].
          tokens: [B, P, T, D], prompts; token_valid: bool [B, P, T].
          dense: [B or 1, P or 1, h or 1, w or 1, D], added to the embedding.

        Returns:
          logits: float32 [B, P, 4, 4h, 4w], mask where > 0; 0 is the single mask, 1..3 answer an ambiguous prompt.
          iou: float32 [B, P, 4], the decoder's estimate of each mask's IoU.
        """
        batch, h, w, _ = embedding.shape
        prompts = tokens.shape[1]
        normal = nn.initializers.normal(1.0)
        iou_token = self.param("iou_token", normal, (1, self.width))
        mask_tokens = self.param("mask_tokens", normal, (MASKS, self.width))
        own = jnp.concatenate([iou_token, mask_tokens]).astype(self.dtype)
        own = jnp.broadcast_to(own, (batch, prompts, *own.shape))
        tokens = jnp.concatenate([own, tokens], axis=2)
        token_valid = jnp.concatenate(
            [jnp.ones((batch, prompts, MASKS + 1), bool), token_valid], axis=2
        )

        image = embedding[:, None] + dense
        transformer = TwoWayTransformer(
            self.depth, self.heads, self.mlp_width, self.dtype, name="transformer"
        )
        positions = image_positions.reshape(h * w, self.width).astype(self.dtype)
        tokens, image = transformer(
            image.reshape(batch, -1, h * w, self.width), positions, tokens, token_valid
        )

        x = Upscale(self.width // 4, self.dtype, name="upscale_1")(image)
        x = gelu(LayerNorm(dtype=self.dtype, name="upscale_norm")(x))
        x = gelu(Upscale(self.width // 8, self.dtype, name="upscale_2")(x))
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
        x = x.reshape(*x.shape[:2], -1, x.shape[-1])  # h*w cells, 4 in each, 4 in each of these
        logits = jnp.einsum(
            "bpmc,bpnc->bpmn", jnp.stack(filters, axis=2), x, preferred_element_type=jnp.float32
        )
        logits = depth_to_space(
            depth_to_space(logits.reshape(batch, prompts, MASKS, h, w, 16), 2), 2
        )[..., 0]
        iou = mlp(MASKS, "iou_head")(tokens[:, :, 0]).astype(jnp.float32)
        return logits, jax.nn.sigmoid(iou) if self.iou_sigmoid else iou
