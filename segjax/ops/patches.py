"""Patches of pixels and their random masking, for masked autoencoders (MAE, arXiv 2111.06377)."""

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.pixels import normalize_channels, unnormalize_channels
from segjax.ops.resize import depth_to_space, space_to_depth

_EPSILON = 1e-6  # added to a patch's variance
STRATEGIES = ("random", "block", "grid")
# Rectangles drawn by "block": enough to cover more of an image than any useful ratio masks.
_BLOCKS = 32


# Patches as prediction targets (MAE, section 3 and appendix A.1)


def extract_patches(images: jax.Array, patch: int) -> jax.Array:
    """Splits normalized images into patches ("patchify" in MAE's code).

    Args:
      images: [B, H, W, C], values 0..255.
      patch: Side of a patch, in pixels.

    Returns:
      float32 [B, L, patch * patch * C]. Patches are in row-major order, and the values of a patch
      are ordered (row, column, channel).

    Raises:
      ValueError: The patch does not divide the image.
    """
    patches = space_to_depth(normalize_channels(images), patch)
    return patches.reshape(patches.shape[0], -1, patches.shape[-1])


def compute_patch_statistics(pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes mean and standard deviation of each patch.

    The variance is the unbiased one, as in the published models.

    Args:
      pixels: float32 [B, L, N], from `extract_patches`.

    Returns:
      mean: float32 [B, L, 1].
      deviation: float32 [B, L, 1].
    """
    variance = jnp.var(pixels, axis=-1, keepdims=True, ddof=1)
    return jnp.mean(pixels, axis=-1, keepdims=True), jnp.sqrt(variance + _EPSILON)


def make_patch_targets(images: jax.Array, patch: int, *, norm_pix: bool) -> jax.Array:
    """Computes the targets of reconstruction.

    Args:
      images: [B, H, W, C], values 0..255.
      patch: Side of a patch, in pixels.
      norm_pix: Normalize each patch by its own mean and deviation.

    Returns:
      float32 [B, L, patch * patch * C].
    """
    pixels = extract_patches(images, patch)
    if not norm_pix:
        return pixels
    mean, deviation = compute_patch_statistics(pixels)
    return (pixels - mean) / deviation


def render_prediction(
    prediction: jax.Array, images: jax.Array, patch: int, *, norm_pix: bool
) -> jax.Array:
    """Converts predicted patches to images.

    With `norm_pix` a model does not predict the mean and deviation of a patch. Those of the true
    patch are used instead, so the image shows how well structure is predicted, not color.

    Args:
      prediction: [B, L, patch * patch * C].
      images: [B, H, W, C], the true images, values 0..255.
      patch: Side of a patch, in pixels.
      norm_pix: The predictions are normalized, see `make_patch_targets`.

    Returns:
      uint8 [B, H, W, C].
    """
    if norm_pix:
        mean, deviation = compute_patch_statistics(extract_patches(images, patch))
        prediction = prediction * deviation + mean
    grid = (images.shape[1] // patch, images.shape[2] // patch)
    cells = prediction.reshape(-1, *grid, prediction.shape[-1])
    pixels = unnormalize_channels(depth_to_space(cells, patch))
    return jnp.clip(jnp.round(pixels), 0, 255).astype(jnp.uint8)


# Random masking (MAE, section 3): patches are sorted by noise, and the first are visible.


def count_visible(patches: int, ratio: float) -> int:
    """Returns the number of visible patches for a mask ratio, rounded down.

    Args:
      patches: Number of patches of an image.
      ratio: Share of patches that is masked.

    Raises:
      ValueError: The ratio is not between 0 and 1, leaves no visible patch, or masks none.
    """
    visible = int(patches * (1 - ratio)) if 0 < ratio < 1 else 0
    if not 0 < visible < patches:
        why = (
            "is not between 0 and 1"
            if not 0 < ratio < 1
            else f"leaves {visible} of {patches} patches visible"
        )
        raise ValueError(
            f"mask_ratio {ratio} {why}; expected a share strictly between 0 and 1 that leaves at "
            f"least one visible and one masked patch: at most {1 - 1 / patches:.4g} for {patches} "
            "patches"
        )
    return visible


def draw_mask_noise(key: jax.Array, grid: tuple[int, int], strategy: str = "random") -> jax.Array:
    """Draws the noise that random masking sorts by. Patches with low noise stay visible.

    The strategies are those of MAE's figure 6:

    random: Patches are drawn one by one.
    block: Whole rectangles are masked, one after another. Each covers 8 to 30 % of the image and is
      up to three times as long as wide. The last one is masked in part, to reach the exact number.
    grid: One patch of every two by two is visible, the same one everywhere. For ratios other than
      3/4, the difference is drawn at random from the next best patches.

    Args:
      key: PRNG key of one image.
      grid: (h, w), in patches.
      strategy: One of `STRATEGIES`.

    Returns:
      float32 [h * w], row by row.

    Raises:
      ValueError: Unknown strategy.
    """
    h, w = grid
    noise_key, key = jax.random.split(key)
    noise = jax.random.uniform(noise_key, (h, w))
    if strategy == "grid":
        # The integer part ranks the four positions of a 2 x 2 cell, the noise breaks ties.
        phase = jax.random.randint(key, (2,), 0, 2)
        row, column = jnp.arange(h)[:, None] + phase[0], jnp.arange(w) + phase[1]
        noise = noise + (row % 2) * 2 + column % 2
    elif strategy == "block":
        # Patches of early rectangles have the highest noise and are masked first.
        noise = noise - _index_first_cover(key, grid)
    elif strategy != "random":
        raise ValueError(
            f"mask_strategy {strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}"
        )
    return noise.reshape(-1)


def _index_first_cover(key: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Draws rectangles. Returns the index of the first one that covers each patch.

    Args:
      key: PRNG key.
      grid: (h, w), in patches.

    Returns:
      float32 [h, w], `_BLOCKS` where no rectangle covers the patch.
    """
    sides = np.array(grid, np.float32)
    area_key, aspect_key, start_key = jax.random.split(key, 3)
    # Area and aspect ratio, then sides in patches
    area = jax.random.uniform(area_key, (_BLOCKS,), minval=0.08, maxval=0.3) * sides.prod()
    aspect = jnp.exp(
        jax.random.uniform(aspect_key, (_BLOCKS,), minval=-1.0, maxval=1.0) * np.log(3.0)
    )
    size = jnp.stack([jnp.sqrt(area * aspect), jnp.sqrt(area / aspect)], axis=-1)
    size = jnp.clip(jnp.round(size), 1, sides)
    # Top left corner, so that the rectangle lies inside the image
    start = jnp.floor(jax.random.uniform(start_key, (_BLOCKS, 2)) * (sides - size + 1))
    inside = [
        (np.arange(side) >= start[:, axis, None])
        & (np.arange(side) < (start + size)[:, axis, None])
        for axis, side in enumerate(grid)
    ]
    covers = inside[0][:, :, None] & inside[1][:, None, :]
    return jnp.where(covers.any(0), jnp.argmax(covers, axis=0), _BLOCKS).astype(jnp.float32)


def split_patches(noise: jax.Array, visible: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits patches into visible and masked ones by their noise (MAE's random masking).

    Example:
      >>> noise = jnp.array([[0.9, 0.1, 0.5]])
      >>> indices, restore, masked = split_patches(noise, visible=1)
      >>> masked
      Array([[ True, False,  True]], dtype=bool)

    Args:
      noise: [B, L], from `draw_mask_noise`.
      visible: Number of visible patches.

    Returns:
      indices: int32 [B, visible], the visible patches, in the order of their noise.
      restore: int32 [B, L], rank of each patch in that order. Indexing a sorted sequence with it
        restores the order of the patches.
      masked: bool [B, L], True for masked patches.
    """
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    return order[:, :visible], restore, restore >= visible
