"""Normalization of pixel values by ImageNet's mean color and standard deviation."""

import jax
import jax.numpy as jnp
import numpy as np

PIXEL_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
PIXEL_STD = np.array([58.395, 57.12, 57.375], np.float32)


def normalize(images: jax.Array) -> jax.Array:
    """Normalizes RGB images to about zero mean and unit variance.

    The published models of SAM, MAE and torchvision expect this.

    Args:
      images: [..., 3], RGB values 0..255 of any type.

    Returns:
      float32 [..., 3].
    """
    return (images.astype(jnp.float32) - PIXEL_MEAN) / PIXEL_STD


def unnormalize(values: jax.Array) -> jax.Array:
    """Inverts `normalize`.

    Args:
      values: [..., 3], normalized values.

    Returns:
      float32 [..., 3], on the scale 0..255. They are neither rounded nor clipped.
    """
    return values.astype(jnp.float32) * PIXEL_STD + PIXEL_MEAN
