"""The two-way transformer: tokens read the image, the image reads the tokens (SAM, section 3 and appendix A).

Leading axes of the image and of the tokens broadcast: an image without mask prompts enters as [B, 1, h*w, D], and
everything that does not depend on the prompt (a third of the first layer) is computed once an image.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention import attention
from segjax.models.layers import LayerNorm, Linear, Mlp
from segjax.models.sam.image_encoder import torch_conv

EPSILON = 1e-5  # torch's default, as the published decoder has; the encoder's norms use 1e-6


class ProjectedAttention(nn.Module):
    """Multi-head attention between two sets, inside width / downsample channels."""

    heads: int
    downsample: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, key_valid: jax.Array | None = None) -> jax.Array:
        """q [..., Tq, D], k and v [..., Tk, D], key_valid bool [..., Tk] -> [..., Tq, D]."""
        width = q.shape[-1]
        inner = width // self.downsample
        linear = lambda features, name: Linear(features, dtype=self.dtype, kernel_init=torch_conv, name=name)

        def heads_of(x, name):
            return linear(inner, name)(x).reshape(*x.shape[:-1], self.heads, inner // self.heads)

        out = attention(heads_of(q, "q"), heads_of(k, "k"), heads_of(v, "v"), key_valid=key_valid)
        return linear(width, "out")(out.reshape(*out.shape[:-2], inner))


class TwoWayBlock(nn.Module):
    """Self-attention of tokens, tokens to image, MLP, image to tokens; a norm after each (post-norm)."""

    heads: int
    mlp_width: int
    first: bool = False
    downsample: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens, image, token_positions, image_positions, token_valid):
        norm = lambda name: LayerNorm(EPSILON, self.dtype, name=name)
        cross = lambda name: ProjectedAttention(self.heads, self.downsample, self.dtype, name=name)
        itself = ProjectedAttention(self.heads, dtype=self.dtype, name="self_attention")
        if self.first:  # the first layer has no positions yet and no residual, as published
            tokens = itself(tokens, tokens, tokens, token_valid)
        else:
            q = tokens + token_positions
            tokens = tokens + itself(q, q, tokens, token_valid)
        tokens = norm("norm_1")(tokens)
        keys = image + image_positions
        tokens = tokens + cross("tokens_to_image")(tokens + token_positions, keys, image)
        tokens = norm("norm_2")(tokens)
        width = tokens.shape[-1]
        mlp = Mlp((self.mlp_width, width), jax.nn.relu, self.dtype, kernel_init=torch_conv, name="mlp")
        tokens = norm("norm_3")(tokens + mlp(tokens))
        image = image + cross("image_to_tokens")(keys, tokens + token_positions, tokens, token_valid)
        return tokens, norm("norm_4")(image)


class TwoWayTransformer(nn.Module):
    """Two blocks and a last look of the tokens at the image."""

    depth: int
    heads: int
    mlp_width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, image: jax.Array, image_positions: jax.Array, tokens: jax.Array, token_valid: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """image [B, P or 1, h*w, D], image_positions [h*w, D], tokens [B, P, T, D], token_valid bool [B, P, T].

        Returns:
          tokens [B, P, T, D] and image [B, P, h*w, D]. Tokens that are not valid hold nothing of meaning.
        """
        positions = tokens
        for i in range(self.depth):
            block = TwoWayBlock(self.heads, self.mlp_width, first=i == 0, dtype=self.dtype, name=f"block_{i}")
            tokens, image = block(tokens, image, positions, image_positions, token_valid)
        last = ProjectedAttention(self.heads, 2, self.dtype, name="final_tokens_to_image")
        tokens = tokens + last(tokens + positions, image + image_positions, image)
        return LayerNorm(EPSILON, self.dtype, name="final_norm")(tokens), image
