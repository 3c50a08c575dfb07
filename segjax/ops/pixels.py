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


def scale_to_range(images: jax.Array, content: jax.Array | None = None) -> jax.Array:
    """Scales the values of each image to 0..1 by its own minimum and maximum, as MedSAM does.

    Args:
      images: [B, H, W, C], values of any type.
      content: bool [B, H, W, 1], pixels that count. None: all.

    Returns:
      float32 [B, H, W, C]. An image of one value becomes 0.
    """
    x = images.astype(jnp.float32)
    where = None if content is None else jnp.broadcast_to(content, x.shape)
    options = dict(axis=(1, 2, 3), keepdims=True, where=where)
    low = jnp.min(x, initial=jnp.inf, **options)
    high = jnp.max(x, initial=-jnp.inf, **options)
    return (x - low) / jnp.maximum(high - low, 1e-8)


def normalize_channels(images: jax.Array) -> jax.Array:
    """Normalizes images of any number of channels.

    RGB images are normalized by `normalize`. Channels of other images have no published statistics,
    so the means of the three numbers serve for each of them.

    Args:
      images: [..., C], values 0..255 of any type.

    Returns:
      float32 [..., C].
    """
    mean, std = _channel_statistics(images.shape[-1])
    return (images.astype(jnp.float32) - mean) / std


def unnormalize_channels(values: jax.Array) -> jax.Array:
    """Inverts `normalize_channels`, for values [..., C]."""
    mean, std = _channel_statistics(values.shape[-1])
    return values.astype(jnp.float32) * std + mean


def _channel_statistics(channels: int) -> tuple[np.ndarray, np.ndarray]:
    if channels == len(PIXEL_MEAN):
        return PIXEL_MEAN, PIXEL_STD
    return PIXEL_MEAN.mean(keepdims=True), PIXEL_STD.mean(keepdims=True)


def unnormalize(values: jax.Array) -> jax.Array:
    """Inverts `normalize`.

    Args:
      values: [..., 3], normalized values.

    Returns:
      float32 [..., 3], on the scale 0..255. They are neither rounded nor clipped.
    """
    return values.astype(jnp.float32) * PIXEL_STD + PIXEL_MEAN
