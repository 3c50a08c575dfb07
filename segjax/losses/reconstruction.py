"""Reconstruction loss of a masked autoencoder (MAE, He et al. 2022, section 3)."""

import jax
import jax.numpy as jnp

from segjax.ops.patches import make_patch_targets


def reconstruction_loss(
    prediction: jax.Array,
    images: jax.Array,
    masked: jax.Array,
    *,
    patch: int,
    norm_pix: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Sums the squared error of the masked patches.

        loss = sum_i m_i mean((prediction_i - target_i)^2) / sum_i m_i

    The numerator and the denominator are returned separately, so that the mean over any batch is
    exact.

        images, prediction = jnp.zeros((2, 32, 32, 3)), jnp.zeros((2, 4, 16 * 16 * 3))
        total, weight = reconstruction_loss(prediction, images, jnp.ones((2, 4)), patch=16)
        total / weight  # 0.9986. Predicting the mean of every patch gets about 1.

    Args:
      prediction: [B, L, patch * patch * C].
      images: [B, H, W, C], values 0..255.
      masked: [B, L], 1 (or a weight) for masked patches, 0 for visible ones.
      patch: Side of a patch in pixels.
      norm_pix: Whether each target patch is normalized by its own mean and variance.

    Returns:
      (sum over masked patches of their mean squared error, sum of `masked`), float32 scalars.
    """
    target = make_patch_targets(images, patch, norm_pix=norm_pix)
    errors = jnp.mean(jnp.square(prediction.astype(jnp.float32) - target), axis=-1)
    masked = masked.astype(jnp.float32)
    return jnp.sum(errors * masked), jnp.sum(masked)
