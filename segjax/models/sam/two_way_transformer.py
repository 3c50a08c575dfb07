"""Two-way attention: prompt tokens attend to the image and the image attends to the tokens.

SAM, section 3 ("Mask decoder") and appendix A.

Leading axes of the image and of the tokens broadcast. An image without mask prompts enters as
[B, 1, h*w, D], so everything that does not depend on the prompt (a third of the first layer) is
computed once per image.

There are thousands of image cells and a handful of tokens, and projecting the cells into the heads
would be most of the work. Where it is cheaper, `ProjectedAttention` instead projects the tokens of
each head back to the width of the cells. Scores and sums stay the same, for less than half of the
multiply-adds. This is called "folded" below.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.attention import attention
from segjax.models.attention.last_block import compute_attention_weights
from segjax.models.layers import LayerNorm, Linear, Mlp, torch_conv


class Guidance(NamedTuple):
    """Guidance of the decoder by an example (PerSAM, arXiv 2305.03048, section 3.2).

    Attributes:
      target: [B, P, D], mean of the example's cells, which is added to the tokens.
      similarity: float32 [B, P, h*w], 0..1. It is added to the attention from tokens to cells, and
        the sum is normalized once more.
    """

    target: jax.Array
    similarity: jax.Array


EPSILON = 1e-5  # PyTorch's default, as in the published decoder. The encoder's norms use 1e-6.


class ProjectedAttention(nn.Module):
    """Multi-head attention between two sequences in width / downsample channels.

    Attributes:
      heads: Number of heads.
      downsample: Factor by which queries, keys and values are narrower than the input.
      dtype: Type of the computation.
    """

    heads: int
    downsample: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        key_valid: jax.Array | None = None,
        similarity: jax.Array | None = None,
    ) -> jax.Array:
        """Attends from queries to keys.

        Args:
          q: [..., Tq, D], queries.
          k: [..., Tk, D], keys.
          v: [..., Tk, D], values.
          key_valid: bool [..., Tk]. False keys are ignored. None: all are valid.
          similarity: float32 [..., Tk], see `Guidance`. None: plain attention.

        Returns:
          [..., Tq, D].
        """
        width = q.shape[-1]
        inner = width // self.downsample
        project = {
            name: Linear(inner, dtype=self.dtype, kernel_init=torch_conv, name=name)
            for name in "qkv"
        }
        out = Linear(width, dtype=self.dtype, kernel_init=torch_conv, name="out")
        q, k, v = (x.astype(self.dtype) for x in (q, k, v))

        if similarity is not None:
            q, k, v = (
                self._split_heads(project[name](x))
                for name, x in zip("qkv", (q, k, v), strict=True)
            )
            x = _attend_guided(q, k, v, similarity)
            return out(x.reshape(*x.shape[:-2], -1))

        # Folded attention
        few, many = sorted((q.shape[-2], k.shape[-2]))
        if not self.is_initializing() and _is_folding_cheaper(self.heads, few, many, width, inner):
            if few == k.shape[-2]:
                return self._attend_to_few_keys(project, out, q, k, v, key_valid)
            # With fewer leading axes in k, keys that are projected once serve many prompts.
            if key_valid is None and q.shape[:-2] == k.shape[:-2]:
                return self._attend_from_few_queries(project, out, q, k, v)

        # Direct attention
        q, k, v = (
            self._split_heads(project[name](x)) for name, x in zip("qkv", (q, k, v), strict=True)
        )
        x = attention(q, k, v, key_valid=key_valid)
        return out(x.reshape(*x.shape[:-2], -1))

    def _split_heads(self, x: jax.Array) -> jax.Array:
        """Splits the last axis into heads: [..., heads * C] -> [..., heads, C]."""
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def _attend_from_few_queries(self, project, out, q, k, v):
        """Computes folded attention for few queries and many keys.

        q.(W_k x + b_k) = (W_k' q).x + q.b_k. The last term is the same for every key, so softmax
        ignores it.
        """
        q = self._split_heads(project["q"](q))
        kernel_k = self._split_heads(project["k"].weights(k.shape[-1])[0])
        kernel_v, bias_v = project["v"].weights(v.shape[-1])
        folded = jnp.einsum("...qhc,dhc->...hqd", q * q.shape[-1] ** -0.5, kernel_k)
        weights = jax.nn.softmax(_score(folded, k), axis=-1).astype(self.dtype)
        # Cells are averaged first. Only the averages are projected into the heads.
        mixed = jnp.einsum("...hqk,...kd->...hqd", weights, v)
        x = jnp.einsum("...hqd,dhc->...qhc", mixed, self._split_heads(kernel_v))
        return out(x.reshape(*x.shape[:-2], -1) + bias_v)

    def _attend_to_few_keys(self, project, out, q, k, v, key_valid):
        """Computes folded attention for many queries and few keys.

        (W_q x + b_q).k = x.(W_q' k) + b_q.k. The values pass through the output projection before
        they are summed.
        """
        k, v = self._split_heads(project["k"](k)), self._split_heads(project["v"](v))
        k = k * k.shape[-1] ** -0.5
        kernel_q, bias_q = (
            self._split_heads(weight) for weight in project["q"].weights(q.shape[-1])
        )
        kernel_out, bias_out = out.weights(v.shape[-2] * v.shape[-1])
        # Scores of every cell for every token
        scores = _score(jnp.einsum("...khc,dhc->...hkd", k, kernel_q), q)
        scores += jnp.einsum("...khc,hc->...hk", k, bias_q)[..., None]
        if key_valid is not None:
            scores = jnp.where(key_valid[..., None, :, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-2).astype(self.dtype)
        # Values, projected to the output before the sum over tokens and heads
        values = jnp.einsum("...khc,hcd->...hkd", v, kernel_out.reshape(*v.shape[-2:], -1))
        merge = lambda x: x.reshape(*x.shape[:-3], -1, x.shape[-1])
        return jnp.einsum("...nq,...nd->...qd", merge(weights), merge(values)) + bias_out


def _attend_guided(q: jax.Array, k: jax.Array, v: jax.Array, similarity: jax.Array) -> jax.Array:
    """Computes softmax(softmax(q k^T / sqrt(C)) + similarity) v, [..., Tq, heads, C]."""
    weights = compute_attention_weights(q, k) + similarity[..., None, None, :]
    weights = jax.nn.softmax(weights, axis=-1).astype(v.dtype)
    return jnp.einsum("...hqk,...khc->...qhc", weights, v)


def _is_folding_cheaper(heads: int, few: int, many: int, width: int, inner: int) -> bool:
    """Compares the multiply-adds of folded and direct attention, for the scores or for the sums."""
    folded = heads * few * many * width + few * width * inner
    direct = many * width * inner + few * many * inner
    return folded < direct


def _score(few: jax.Array, many: jax.Array) -> jax.Array:
    """Multiplies few rows with many: float32 [..., heads, T, L]. Leading axes broadcast.

    The contraction is written so that the few scores are transposed, not the many rows.

    Args:
      few: [..., heads, T, D].
      many: [..., L, D].
    """
    scores = jnp.einsum("...ld,...htd->...lht", many, few, preferred_element_type=jnp.float32)
    return jnp.moveaxis(scores, -3, -1)


class TwoWayBlock(nn.Module):
    """Layer of the two-way transformer, with a norm after each part (post-norm).

    The parts are self-attention of the tokens, attention from tokens to image, an MLP on the
    tokens, and attention from image to tokens.

    Attributes:
      heads: Number of heads.
      mlp_width: Hidden channels of the MLP.
      first: True for the first layer, which has no positions and no residual in its self-attention.
      downsample: Factor by which cross-attention is narrower than the tokens.
      dtype: Type of the computation.
    """

    heads: int
    mlp_width: int
    first: bool = False
    downsample: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, tokens, image, token_positions, image_positions, token_valid, similarity=None
    ):
        norm = lambda name: LayerNorm(EPSILON, self.dtype, name=name)
        cross = lambda name: ProjectedAttention(self.heads, self.downsample, self.dtype, name=name)

        # Self-attention of the tokens
        self_attention = ProjectedAttention(self.heads, dtype=self.dtype, name="self_attention")
        if self.first:  # as published: no positions yet, and no residual
            tokens = self_attention(tokens, tokens, tokens, token_valid)
        else:
            q = tokens + token_positions
            tokens = tokens + self_attention(q, q, tokens, token_valid)
        tokens = norm("norm_1")(tokens)

        # Tokens to image
        keys = image + image_positions
        tokens = tokens + cross("tokens_to_image")(
            tokens + token_positions, keys, image, similarity=similarity
        )
        tokens = norm("norm_2")(tokens)

        # MLP
        width = tokens.shape[-1]
        mlp = Mlp(
            (self.mlp_width, width), jax.nn.relu, self.dtype, kernel_init=torch_conv, name="mlp"
        )
        tokens = norm("norm_3")(tokens + mlp(tokens))

        # Image to tokens
        image = image + cross("image_to_tokens")(
            keys, tokens + token_positions, tokens, token_valid
        )
        return tokens, norm("norm_4")(image)


class TwoWayTransformer(nn.Module):
    """Two-way transformer: `depth` blocks, then a last attention from the tokens to the image.

    Attributes:
      depth: Number of blocks (2 in SAM).
      heads: Number of heads.
      mlp_width: Hidden channels of the MLPs.
      dtype: Type of the computation.
    """

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
        guidance: Guidance | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Updates tokens and image by two-way attention.

        Args:
          image: [B, P or 1, h*w, D], image embedding.
          image_positions: [h*w, D], positional encoding of the image cells.
          tokens: [B, P, T, D], output tokens and prompt tokens. They are their own positions.
          token_valid: bool [B, P, T]. False tokens are ignored.
          guidance: of an example. None: none, and nothing changes.

        Returns:
          tokens: [B, P, T, D]. Values of invalid tokens are undefined.
          image: [B, P, h*w, D].
        """
        # As published, where the addition changes the tokens' positions too: the target enters the
        # positions once, and the tokens before each block but the first, and before the end.
        target, similarity = 0, None
        if guidance is not None:
            target, similarity = (
                guidance.target[:, :, None].astype(tokens.dtype),
                guidance.similarity,
            )
            tokens = tokens + target
        positions = tokens
        for i in range(self.depth):
            if guidance is not None and i:
                tokens = tokens + target
            block = TwoWayBlock(
                self.heads, self.mlp_width, first=i == 0, dtype=self.dtype, name=f"block_{i}"
            )
            tokens, image = block(
                tokens, image, positions, image_positions, token_valid, similarity
            )
        last = ProjectedAttention(self.heads, 2, self.dtype, name="final_tokens_to_image")
        query = tokens + positions
        if guidance is not None:
            query = query + target
        tokens = tokens + last(query, image + image_positions, image)
        return LayerNorm(EPSILON, self.dtype, name="final_norm")(tokens), image
