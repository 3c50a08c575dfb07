"""Pictures as patches of pixels, and back: what a masked autoencoder predicts (MAE, section 3 and appendix A.1)."""

import jax
import jax.numpy as jnp

from segjax.ops.pixels import normalise, unnormalise
from segjax.ops.resize import depth_to_space, space_to_depth

_EPSILON = 1e-6  # of a patch's variance


def patch_pixels(images: jax.Array, patch: int) -> jax.Array:
    """Images [B, H, W, 3] of values 0..255 -> float32 [B, L, patch * patch * 3], normalised by ImageNet's statistics.

    Patches are counted row by row, the values of one ordered (row, column, channel). Raises ValueError when the patch
    does not divide the image.
    """
    patches = space_to_depth(normalise(images), patch)
    return patches.reshape(patches.shape[0], -1, patches.shape[-1])


def patch_statistics(pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, deviation) of each patch [B, L, 1]. The variance is the unbiased one, as the published models have it."""
    variance = jnp.var(pixels, axis=-1, keepdims=True, ddof=1)
    return jnp.mean(pixels, axis=-1, keepdims=True), jnp.sqrt(variance + _EPSILON)


def patch_targets(images: jax.Array, patch: int, *, norm_pix: bool) -> jax.Array:
    """What is to be predicted: `patch_pixels`, with norm_pix each patch less its mean, over its deviation."""
    pixels = patch_pixels(images, patch)
    if not norm_pix:
        return pixels
    mean, deviation = patch_statistics(pixels)
    return (pixels - mean) / deviation


def predicted_images(prediction: jax.Array, images: jax.Array, patch: int, *, norm_pix: bool) -> jax.Array:
    """Predictions as pictures.

    With norm_pix a model says nothing of a patch's mean and deviation; those of the true one are lent to it, so that
    the picture shows how well structure was guessed, not colour.

    Args:
      prediction: [B, L, patch * patch * 3]. images: [B, H, W, 3], values 0..255.

    Returns:
      uint8 [B, H, W, 3].
    """
    if norm_pix:
        mean, deviation = patch_statistics(patch_pixels(images, patch))
        prediction = prediction * deviation + mean
    grid = (images.shape[1] // patch, images.shape[2] // patch)
    pixels = unnormalise(depth_to_space(prediction.reshape(-1, *grid, prediction.shape[-1]), patch))
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
