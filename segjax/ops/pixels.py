"""Pixel values as the published models take them: less ImageNet's mean colour, over its standard deviation."""

import jax
import jax.numpy as jnp
import numpy as np

PIXEL_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
PIXEL_STD = np.array([58.395, 57.12, 57.375], np.float32)


def normalize(images: jax.Array) -> jax.Array:
    """RGB values 0..255 [..., 3], of any type, to float32 of about zero mean and unit variance."""
    return (images.astype(jnp.float32) - PIXEL_MEAN) / PIXEL_STD


def unnormalize(values: jax.Array) -> jax.Array:
    """Inverse of `normalize`: [..., 3] -> float32 on the scale 0..255, neither rounded nor clipped."""
    return values.astype(jnp.float32) * PIXEL_STD + PIXEL_MEAN
