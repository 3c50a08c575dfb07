"""Mixup, CutMix and label smoothing, which regularize MAE's fine-tuning.

MAE: arXiv 2111.06377, appendix A.1. Mixup: arXiv 1710.09412. CutMix: arXiv 1905.04899. Label
smoothing: Szegedy et al. 2016 (arXiv 1512.00567).
"""

import jax
import jax.numpy as jnp


def smooth_labels(labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
    """Converts labels to smoothed one-hot distributions (label smoothing).

    A label has probability 1 - smoothing + smoothing / classes, and any other class has
    smoothing / classes.

    Example:
      >>> smooth_labels(jnp.array([1]), 2, smoothing=0.5)
      Array([[0.25, 0.75]], dtype=float32)

    Args:
      labels: int [B].
      classes: Number of classes K.
      smoothing: Probability that is spread evenly over all classes.

    Returns:
      float32 [B, K].
    """
    return jax.nn.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / classes


def draw_cut_box(key: jax.Array, share: jax.Array, hw: tuple[int, int]) -> jax.Array:
    """Draws the box of CutMix around a uniformly random center.

    Its sides are sqrt(share) of the image's, rounded down. The part outside the image is cut off.

    Args:
      key: PRNG key.
      share: float [], area of the box before it is cut off, as a fraction of the image's.
      hw: (H, W) of the image, in pixels.

    Returns:
      bool [H, W], True in the box.
    """
    inside = []
    for axis_key, size in zip(jax.random.split(key), hw, strict=True):
        half = jnp.floor(size * jnp.sqrt(share)).astype(jnp.int32) // 2
        center = jax.random.randint(axis_key, (), 0, size)
        inside.append((jnp.arange(size) >= center - half) & (jnp.arange(size) < center + half))
    return inside[0][:, None] & inside[1]


def mix_images(
    images: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    key: jax.Array,
    *,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    switch: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image and its labels with a partner, by mixup or CutMix.

    The partner of an image is the one at the same position from the end of the batch. One lambda is
    drawn from Beta(a, a) for the batch. Mixup blends every pixel: lambda x + (1 - lambda) partner.
    CutMix replaces a box of area 1 - lambda by the partner's pixels. Labels are blended by the
    visible area of each image.

    Example:
      >>> labels = smooth_labels(jnp.array([0, 1]), classes=2)
      >>> images = jnp.zeros((2, 32, 32, 3))
      >>> images, labels = mix_images(images, labels, jnp.ones(2), jax.random.key(0))

    Args:
      images: [B, H, W, 3].
      labels: float [B, K], distributions.
      valid: [B]. An image whose partner has 0 is not mixed.
      key: PRNG key of lambda, the choice and the box.
      mixup: Parameter a of mixup's Beta distribution. 0: no mixup.
      cutmix: Parameter a of CutMix's Beta distribution. 0: no CutMix.
      switch: Probability of CutMix if both are enabled.

    Returns:
      images: float32 [B, H, W, 3].
      labels: float32 [B, K].
    """
    images = images.astype(jnp.float32)
    if not (mixup or cutmix):
        return images, labels
    choice_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 4)
    # `own` is the share of each pixel that comes from the image itself.
    own = jnp.ones(images.shape[1:3])
    # Mixup
    if mixup:
        own *= jax.random.beta(mixup_key, mixup, mixup)
    # CutMix
    if cutmix:
        box = draw_cut_box(
            box_key, 1.0 - jax.random.beta(cutmix_key, cutmix, cutmix), images.shape[1:3]
        )
        chosen = jax.random.bernoulli(choice_key, switch) if mixup else True
        own = jnp.where(chosen, 1.0 - box, own)
    # Padding examples are not mixed into real ones.
    own = jnp.where((valid[::-1] > 0)[:, None, None], own, 1.0)  # [B, H, W]
    blend = lambda x, share: share * x + (1.0 - share) * x[::-1]
    return blend(images, own[..., None]), blend(labels, own.mean(axis=(1, 2))[:, None])
