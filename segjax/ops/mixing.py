"""Mixed pictures and soft labels, the regularisers of MAE's fine-tuning (arXiv 2111.06377, appendix A.1).

Mixup: arXiv 1710.09412. CutMix: arXiv 1905.04899. Label smoothing: Szegedy et al. 2016.
"""

import jax
import jax.numpy as jnp


def smooth_labels(labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
    """int [B] -> float32 [B, classes]: 1 - smoothing on the label, and smoothing spread evenly over all classes."""
    return jax.nn.one_hot(labels, classes) * (1.0 - smoothing) + smoothing / classes


def draw_cut_box(key: jax.Array, share: jax.Array, hw: tuple[int, int]) -> jax.Array:
    """bool [H, W]: a box around a uniformly random centre, of that share of the picture's area before it is cut off.

    Its sides are sqrt(share) of the picture's, rounded down; what reaches over the edge is lost.
    """
    inside = []
    for axis_key, size in zip(jax.random.split(key), hw, strict=True):
        half = jnp.floor(size * jnp.sqrt(share)).astype(jnp.int32) // 2
        centre = jax.random.randint(axis_key, (), 0, size)
        inside.append((jnp.arange(size) >= centre - half) & (jnp.arange(size) < centre + half))
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
    """Each picture of a batch and its opposite number (the first and the last, ...) become one, and so do their labels.

    Mixup takes lambda of the one and 1 - lambda of the other, of every pixel; CutMix lays a box of the other over the
    one. Lambda, one for the batch, is Beta(a, a); labels are mixed by what is to be seen of each picture.

    Args:
      images: [B, H, W, 3].
      labels: float [B, K], distributions.
      valid: [B]; pictures whose opposite number is not (0) stay as they are.
      key: of the lambda, the choice and the box.
      mixup, cutmix: a of the Beta distribution; 0: never.
      switch: probability of CutMix, where both are possible.

    Returns:
      images float32 [B, H, W, 3] and labels float32 [B, K].
    """
    images = images.astype(jnp.float32)
    if not (mixup or cutmix):
        return images, labels
    choice_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 4)
    own = jnp.ones(images.shape[1:3])  # how much of each pixel is the picture's own
    if mixup:
        own *= jax.random.beta(mixup_key, mixup, mixup)
    if cutmix:
        box = draw_cut_box(box_key, 1.0 - jax.random.beta(cutmix_key, cutmix, cutmix), images.shape[1:3])
        chosen = jax.random.bernoulli(choice_key, switch) if mixup else True
        own = jnp.where(chosen, 1.0 - box, own)
    own = jnp.where((valid[::-1] > 0)[:, None, None], own, 1.0)  # [B, H, W]
    blend = lambda x, share: share * x + (1.0 - share) * x[::-1]
    return blend(images, own[..., None]), blend(labels, own.mean(axis=(1, 2))[:, None])
