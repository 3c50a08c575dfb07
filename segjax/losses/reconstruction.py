"""What a masked autoencoder minimises (MAE, section 3)."""

import jax
import jax.numpy as jnp

from segjax.ops.patches import patch_targets


def reconstruction_loss(
    prediction: jax.Array,
    images: jax.Array,
    masked: jax.Array,
    *,
    patch: int,
    norm_pix: bool = True,
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
    target = patch_targets(images, patch, norm_pix=norm_pix)
    errors = jnp.mean(jnp.square(prediction.astype(jnp.float32) - target), axis=-1)
    masked = masked.astype(jnp.float32)
    return jnp.sum(errors * masked), jnp.sum(masked)
