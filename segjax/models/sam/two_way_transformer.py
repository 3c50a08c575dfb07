"""The two-way transformer: tokens read the image, the image reads the tokens (SAM, section 3 and appendix A).

Leading axes of the image and of the tokens broadcast: an image without mask prompts enters as [B, 1, h*w, D], and
everything that does not depend on the prompt (a third of the first layer) is computed once a call.

There are thousands of image cells and a handful of tokens. Projecting the cells into the heads, as attention is
written, is most of the work; projecting the tokens of each head back to the width of the cells instead gives the same
scores and the same sums, for less than half of it ("folded" below).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention import attention
from segjax.models.layers import LayerNorm, Linear, Mlp, torch_conv

EPSILON = 1e-5  # torch's default, as the published decoder has; the encoder's norms use 1e-6


class ProjectedAttention(nn.Module):
    """Multi-head attention between two sets, inside width / downsample channels."""

    heads: int
    downsample: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, key_valid: jax.Array | None = None
    ) -> jax.Array:
        """q [..., Tq, D], k and v [..., Tk, D], key_valid bool [..., Tk] -> [..., Tq, D]."""
        width = q.shape[-1]
        inner = width // self.downsample
        project = {
            name: Linear(inner, dtype=self.dtype, kernel_init=torch_conv, name=name)
            for name in "qkv"
        }
        out = Linear(width, dtype=self.dtype, kernel_init=torch_conv, name="out")
        q, k, v = (x.astype(self.dtype) for x in (q, k, v))
        few, many = sorted((q.shape[-2], k.shape[-2]))
        folded = (
            self.heads * few * many * width + few * width * inner
        )  # multiply-adds, of scores or of mixtures
        if self.is_initializing() or folded >= many * width * inner + few * many * inner:
            return self._projected(project, out, q, k, v, key_valid)
        if few == k.shape[-2]:
            return self._few_keys(project, out, q, k, v, key_valid)
        if (
            key_valid is None and q.shape[:-2] == k.shape[:-2]
        ):  # else keys projected once serve many prompts
            return self._few_queries(project, out, q, k, v)
        return self._projected(project, out, q, k, v, key_valid)

    def _heads(self, x: jax.Array) -> jax.Array:
        """[..., heads * C] -> [..., heads, C]."""
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def _projected(self, project, out, q, k, v, key_valid):
        q, k, v = (self._heads(project[name](x)) for name, x in zip("qkv", (q, k, v), strict=True))
        x = attention(q, k, v, key_valid=key_valid)
        return out(x.reshape(*x.shape[:-2], -1))

    def _few_queries(self, project, out, q, k, v):
        """q.(W_k x + b_k) = (W_k' q).x + a number that is the same for every key, which softmax does not see."""
        q = self._heads(project["q"](q))
        kernel_k = self._heads(project["k"].weights(k.shape[-1])[0])
        kernel_v, bias_v = project["v"].weights(v.shape[-1])
        folded = jnp.einsum("...qhc,dhc->...hqd", q * q.shape[-1] ** -0.5, kernel_k)
        weights = jax.nn.softmax(_scores(folded, k), axis=-1).astype(self.dtype)
        mixed = jnp.einsum("...hqk,...kd->...hqd", weights, v)
        x = jnp.einsum("...hqd,dhc->...qhc", mixed, self._heads(kernel_v))
        return out(x.reshape(*x.shape[:-2], -1) + bias_v)

    def _few_keys(self, project, out, q, k, v, key_valid):
        """(W_q x + b_q).k = x.(W_q' k) + b_q.k; and the values go through the output's projection before the sum."""
        k, v = self._heads(project["k"](k)), self._heads(project["v"](v))
        k = k * k.shape[-1] ** -0.5
        kernel_q, bias_q = (self._heads(weight) for weight in project["q"].weights(q.shape[-1]))
        kernel_out, bias_out = out.weights(v.shape[-2] * v.shape[-1])
        scores = _scores(jnp.einsum("...khc,dhc->...hkd", k, kernel_q), q)
        scores += jnp.einsum("...khc,hc->...hk", k, bias_q)[..., None]
        if key_valid is not None:
            scores = jnp.where(key_valid[..., None, :, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-2).astype(self.dtype)
        values = jnp.einsum("...khc,hcd->...hkd", v, kernel_out.reshape(*v.shape[-2:], -1))
        merged = lambda x: x.reshape(*x.shape[:-3], -1, x.shape[-1])
        return jnp.einsum("...nq,...nd->...qd", merged(weights), merged(values)) + bias_out


def _scores(few: jax.Array, many: jax.Array) -> jax.Array:
    """[..., heads, T, D] of few rows and [..., L, D] of many, leading axes broadcast -> float32 [..., heads, T, L].

    Written so that the few scores are transposed, not the many rows.
    """
    scores = jnp.einsum("...ld,...htd->...lht", many, few, preferred_element_type=jnp.float32)
    return jnp.moveaxis(scores, -3, -1)


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
        mlp = Mlp(
            (self.mlp_width, width), jax.nn.relu, self.dtype, kernel_init=torch_conv, name="mlp"
        )
        tokens = norm("norm_3")(tokens + mlp(tokens))
        image = image + cross("image_to_tokens")(
            keys, tokens + token_positions, tokens, token_valid
        )
        return tokens, norm("norm_4")(image)


class TwoWayTransformer(nn.Module):
    """Two blocks and a last look of the tokens at the image."""

    depth: int
    heads: int
    mlp_width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        image_positions: jax.Array,
        tokens: jax.Array,
        token_valid: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """image [B, P or 1, h*w, D], image_positions [h*w, D], tokens [B, P, T, D], token_valid bool [B, P, T].

        Returns:
          tokens [B, P, T, D] and image [B, P, h*w, D]. Tokens that are not valid hold nothing of meaning.
        """
        positions = tokens
        for i in range(self.depth):
            block = TwoWayBlock(
                self.heads, self.mlp_width, first=i == 0, dtype=self.dtype, name=f"block_{i}"
            )
            tokens, image = block(tokens, image, positions, image_positions, token_valid)
        last = ProjectedAttention(self.heads, 2, self.dtype, name="final_tokens_to_image")
        tokens = tokens + last(tokens + positions, image + image_positions, image)
        return LayerNorm(EPSILON, self.dtype, name="final_norm")(tokens), image
