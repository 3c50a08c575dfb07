"""Pictures as patches of pixels, and back: what a masked autoencoder predicts (MAE, section 3 and appendix A.1)."""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.pixels import normalize, unnormalize
from segjax.ops.resize import depth_to_space, space_to_depth

_EPSILON = 1e-6  # of a patch's variance


def extract_patches(images: jax.Array, patch: int) -> jax.Array:
    """Images [B, H, W, 3] of values 0..255 -> float32 [B, L, patch * patch * 3], normalised by ImageNet's statistics.

    Patches are counted row by row, the values of one ordered (row, column, channel). Raises ValueError when the patch
    does not divide the image.
    """
    patches = space_to_depth(normalize(images), patch)
    return patches.reshape(patches.shape[0], -1, patches.shape[-1])


def compute_patch_statistics(pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, deviation) of each patch [B, L, 1]. The variance is the unbiased one, as the published models have it."""
    variance = jnp.var(pixels, axis=-1, keepdims=True, ddof=1)
    return jnp.mean(pixels, axis=-1, keepdims=True), jnp.sqrt(variance + _EPSILON)


def make_patch_targets(images: jax.Array, patch: int, *, norm_pix: bool) -> jax.Array:
    """What is to be predicted: `extract_patches`, with norm_pix each patch less its mean, over its deviation."""
    pixels = extract_patches(images, patch)
    if not norm_pix:
        return pixels
    mean, deviation = compute_patch_statistics(pixels)
    return (pixels - mean) / deviation


def render_prediction(
    prediction: jax.Array, images: jax.Array, patch: int, *, norm_pix: bool
) -> jax.Array:
    """Predictions as pictures.

    With norm_pix a model says nothing of a patch's mean and deviation; those of the true one are lent to it, so that
    the picture shows how well structure was guessed, not colour.

    Args:
      prediction: [B, L, patch * patch * 3]. images: [B, H, W, 3], values 0..255.

    Returns:
      uint8 [B, H, W, 3].
    """
    if norm_pix:
        mean, deviation = compute_patch_statistics(extract_patches(images, patch))
        prediction = prediction * deviation + mean
    grid = (images.shape[1] // patch, images.shape[2] // patch)
    pixels = unnormalize(depth_to_space(prediction.reshape(-1, *grid, prediction.shape[-1]), patch))
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


STRATEGIES = ("random", "block", "grid")
_BLOCKS = 32  # rectangles drawn for "block": enough to cover more of a picture than any useful ratio removes


def count_visible(patches: int, ratio: float) -> int:
    """How many of the patches are seen when a share of them is masked: the part that is left, rounded down.

    Raises:
      ValueError: a ratio that is not between 0 and 1, or that leaves no patch, or masks none.
    """
    kept = int(patches * (1 - ratio)) if 0 < ratio < 1 else 0
    if not 0 < kept < patches:
        why = (
            "is not between 0 and 1"
            if not 0 < ratio < 1
            else f"leaves {kept} of {patches} patches to be seen"
        )
        raise ValueError(
            f"mask_ratio {ratio} {why}; expected a share strictly between 0 and 1 that leaves at least one patch seen "
            f"and one masked: at most {1 - 1 / patches:.4g} for {patches} patches"
        )
    return kept


def draw_mask_noise(key: jax.Array, grid: tuple[int, int], strategy: str = "random") -> jax.Array:
    """Noise of one picture, float32 [h * w], row by row; the patches with the lowest numbers are seen.

    Args:
      key: PRNG key of this picture.
      grid: (h, w), in patches.
      strategy: "random" draws patches one by one. "block" masks whole rectangles, each of 8 to 30 % of the picture and
        up to three times as long as wide, one after the other (the last one in part, to come to the exact number).
        "grid" sees one patch of every two by two, the same one all over the picture (MAE, figure 6); of other ratios
        than 3/4 the surplus is drawn at random from the next best.

    Raises:
      ValueError: an unknown strategy.
    """
    h, w = grid
    noise_key, key = jax.random.split(key)
    noise = jax.random.uniform(noise_key, (h, w))
    if strategy == "grid":
        phase = jax.random.randint(key, (2,), 0, 2)
        row, column = jnp.arange(h)[:, None] + phase[0], jnp.arange(w) + phase[1]
        noise = noise + (row % 2) * 2 + column % 2
    elif strategy == "block":
        noise = noise - _first_cover(key, grid)
    elif strategy != "random":
        raise ValueError(
            f"mask_strategy {strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}"
        )
    return noise.reshape(-1)


def _first_cover(key: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """float32 [h, w]: the number of the first of many random rectangles that covers a patch."""
    sides = np.array(grid, np.float32)
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    area = jax.random.uniform(area_key, (_BLOCKS,), minval=0.08, maxval=0.3) * sides.prod()
    aspect = jnp.exp(
        jax.random.uniform(aspect_key, (_BLOCKS,), minval=-1.0, maxval=1.0) * np.log(3.0)
    )
    size = jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)], axis=-1)
    size = jnp.clip(jnp.round(size), 1, sides)
    start = jnp.floor(jax.random.uniform(place_key, (_BLOCKS, 2)) * (sides - size + 1))
    inside = [
        (np.arange(side) >= start[:, axis, None])
        & (np.arange(side) < (start + size)[:, axis, None])
        for axis, side in enumerate(grid)
    ]
    covers = inside[0][:, :, None] & inside[1][:, None, :]
    return jnp.where(covers.any(0), jnp.argmax(covers, axis=0), _BLOCKS).astype(jnp.float32)


def split_patches(noise: jax.Array, visible: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sorts patches by their noise (MAE, section 3).

    Args:
      noise: [B, L]. visible: how many are seen.

    Returns:
      seen: int32 [B, visible], indices of the patches that are seen, in the order of their noise.
      restore: int32 [B, L], the place of each patch in that order: indexing a sorted sequence with it undoes the sort.
      masked: bool [B, L], True for the patches that are not seen.
    """
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return order[:, :visible], restore, restore >= visible
