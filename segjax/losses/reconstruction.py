"""What a masked autoencoder minimises (MAE, section 3 and appendix A.1), and its predictions as pictures."""

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


def reconstruction_loss(
    prediction: jax.Array, images: jax.Array, masked: jax.Array, *, patch: int, norm_pix: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Squared error on the masked patches: a sum and its weight, so that the mean over any batch is exact.

    Args:
      prediction: [B, L, patch * patch * 3].
      images: [B, H, W, 3], values 0..255.
      masked: [B, L], 1 (or a weight) where a patch counts, 0 where it was seen.
      norm_pix: the target is normalised patch by patch.

    Returns:
      (sum over masked patches of their mean squared error, the sum of `masked`), float32 scalars.
    """
    target = patch_pixels(images, patch)
    if norm_pix:
        mean, deviation = patch_statistics(target)
        target = (target - mean) / deviation
    errors = jnp.mean(jnp.square(prediction.astype(jnp.float32) - target), axis=-1)
    masked = masked.astype(jnp.float32)
    return jnp.sum(errors * masked), jnp.sum(masked)


def predicted_images(prediction: jax.Array, images: jax.Array, *, patch: int, norm_pix: bool = True) -> jax.Array:
    """Predictions as pictures.

    With norm_pix a model predicts no patch's mean and deviation; those of the true patch are lent to it, as in the
    paper's figures. Arguments as `reconstruction_loss`.

    Returns:
      uint8 [B, H, W, 3].
    """
    if norm_pix:
        mean, deviation = patch_statistics(patch_pixels(images, patch))
        prediction = prediction * deviation + mean
    grid = (images.shape[1] // patch, images.shape[2] // patch)
    pixels = unnormalise(depth_to_space(prediction.reshape(-1, *grid, prediction.shape[-1]), patch))
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)
