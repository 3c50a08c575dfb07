"""Towers of CLIP: from an image, and from token ids, to a vector of the shared space."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from segjax.models.layers import LayerNorm, Linear
from segjax.models.vit import TokenEncoder, ViT


class ImageTower(nn.Module):
    """Image tower: a ViT with a class token, whose output is projected.

    Attributes:
      trunk: options of `ViT`.
      width: channels of a token.
      patch: side of a patch in pixels.
      grid: (h, w) of patches that the positions are learned for.
      embedding: channels of the shared space.
      epsilon: added to the variance in the LayerNorms.
      dtype: of the computation.
    """

    trunk: dict
    width: int
    patch: int
    grid: tuple[int, int]
    embedding: int
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        """Builds the encoder, the last norm and the projection."""
        init = nn.initializers.normal(self.width**-0.5)
        self.encoder = TokenEncoder(
            self.trunk,
            self.width,
            self.patch,
            self.grid,
            patch_bias=False,
            pre_norm=True,
            epsilon=self.epsilon,
            position_init=init,
            dtype=self.dtype,
        )
        self.norm_post = LayerNorm(self.epsilon, self.dtype)
        self.proj = Linear(self.embedding, use_bias=False, dtype=self.dtype, kernel_init=init)

    def __call__(
        self, images: jax.Array, *, train: bool = False, masks: jax.Array | None = None
    ) -> jax.Array:
        """Encodes images, or masks of images.

        Args:
          images: normalized, [B, H, W, 3].
          train: True applies drop path.
          masks: bool [B, K, 1 + h * w]. Masked attention: in the last block, the class token sees
            the tokens of the mask alone.

        Returns:
          float32 [B, embedding], or [B, K, embedding] with masks. Not normalized.
        """
        tokens = self.encoder(images, train=train, masks=masks)
        if masks is None:
            tokens = tokens[:, 0]
        return self.proj(self.norm_post(tokens)).astype(jnp.float32)

    def describe_patches(self, images: jax.Array, dense: str) -> jax.Array:
        """Computes a vector for each patch, float32 [B, h, w, embedding]. Not normalized.

        Args:
          images: normalized, [B, H, W, 3].
          dense: attention of the last block, see `segjax.models.attention.last_block.mix_tokens`.
        """
        tokens = self.encoder(images, dense=dense)[:, 1:]
        grid = (images.shape[1] // self.patch, images.shape[2] // self.patch)
        vectors = self.proj(self.norm_post(tokens)).astype(jnp.float32)
        return vectors.reshape(len(images), *grid, self.embedding)


class TextTower(nn.Module):
    """Text tower: a causal transformer whose token at the end of the text is projected.

    Attributes:
      trunk: options of `ViT`.
      width: channels of a token.
      context: number of tokens of a text.
      vocabulary: number of token ids. The end of a text has the largest id of it.
      embedding: channels of the shared space.
      epsilon: added to the variance in the LayerNorms.
      dtype: of the computation.
    """

    trunk: dict
    width: int
    context: int
    vocabulary: int
    embedding: int
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ids: jax.Array, *, train: bool = False) -> jax.Array:
        """Encodes texts.

        Args:
          ids: int32 [N, context], token ids. What follows the end of the text does not matter.
          train: True applies drop path.

        Returns:
          float32 [N, embedding]. Not normalized.
        """
        normal = nn.initializers.normal
        table = self.param("token_embed", normal(0.02), (self.vocabulary, self.width))
        positions = self.param("pos_embed", normal(0.01), (self.context, self.width))
        x = jnp.take(table, ids, axis=0).astype(self.dtype) + positions.astype(self.dtype)
        trunk = ViT(**self.trunk, causal=True, epsilon=self.epsilon, dtype=self.dtype, name="trunk")
        x = trunk(x, train=train)
        # The first of the largest ids is the end of the text. Norms treat tokens alike, so one is
        # enough.
        end = jnp.argmax(ids, axis=-1)
        x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        x = LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        init = normal(self.width**-0.5)
        proj = Linear(
            self.embedding, use_bias=False, dtype=self.dtype, kernel_init=init, name="proj"
        )
        return proj(x).astype(jnp.float32)
