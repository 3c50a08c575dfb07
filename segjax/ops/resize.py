"""Resizing and regridding with the half-pixel convention of `torch.nn.functional.interpolate(align_corners=False)`.

JAX's own `jax.image.resize` averages when it shrinks (antialias) unless told not to; the published models were
trained with plain interpolation, so every resize of maps and tables goes through here.
"""

import jax
import jax.numpy as jnp
import numpy as np


def linear_weights(size: int, target: int) -> np.ndarray:
    """Interpolation matrix float32 [target, size]: row t holds the two weights that make output sample t.

    torch works positions out in float32, the product and the half pixel with one rounding. So do we: at a thousand
    pixels that moves a weight by 6e-5, which decides for pixels on the edge of a mask.
    """
    ratio = np.float64(np.float32(size) / np.float32(target))
    position = np.clip((ratio * (np.arange(target) + 0.5) - 0.5).astype(np.float32), 0, size - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, size - 1)
    fraction = position - low.astype(np.float32)
    weights = np.zeros((target, size), np.float32)
    np.add.at(weights, (np.arange(target), low), 1 - fraction)
    np.add.at(weights, (np.arange(target), high), fraction)
    return weights


def linear_weights_at(position: jax.Array, size: int) -> jax.Array:
    """Linear interpolation at any places between `size` samples at 0, 1, 2 ..., zeros lying beyond them.

    Args:
      position: float [...], of NumPy or of jax.

    Returns:
      [..., size], of the same.
    """
    xp = np if isinstance(position, np.ndarray) else jnp
    return xp.maximum(1 - abs(position[..., None] - xp.arange(size, dtype=position.dtype)), 0)


def resize_bilinear(x: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Bilinear resize of the last two axes, half-pixel centres, no antialiasing.

    Args:
      x: [..., H, W], any float type; interpolation runs in float32.
      shape: (H2, W2).

    Returns:
      [..., H2, W2] of x's type. Two small dense matrices do the work: fast on every backend, and so is the gradient.
    """
    height, width = x.shape[-2:]
    out = x.astype(jnp.float32)
    if width != shape[1]:
        out = jnp.matmul(out, linear_weights(width, shape[1]).T, precision="highest")
    if height != shape[0]:
        out = jnp.matmul(linear_weights(height, shape[0]), out, precision="highest")
    return out.astype(x.dtype)


def resize_table(table: jax.Array, length: int) -> jax.Array:
    """Linear resize of axis 0: [L, D] -> [length, D], as SAM resizes relative positions to another grid."""
    if table.shape[0] == length:
        return table
    return jnp.matmul(linear_weights(table.shape[0], length), table, precision="highest")


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """[..., H, W, C] -> [..., H/block, W/block, block*block*C], channels in (row, column, C) order as in a kernel."""
    *lead, height, width, channels = x.shape
    if height % block or width % block:
        raise ValueError(
            f"a map of {height}x{width} does not divide into blocks of {block}; resize or pad it first"
        )
    x = x.reshape(*lead, height // block, block, width // block, block, channels)
    x = jnp.moveaxis(x, -3, -4)
    return x.reshape(*lead, height // block, width // block, block * block * channels)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
    """Inverse of `space_to_depth`: [..., h, w, block*block*C] -> [..., h*block, w*block, C]."""
    *lead, height, width, depth = x.shape
    x = x.reshape(*lead, height, width, block, block, depth // block**2)
    x = jnp.moveaxis(x, -3, -4)
    return x.reshape(*lead, height * block, width * block, depth // block**2)


def resize_crops(frames: jax.Array, windows: jax.Array, canvas: int) -> jax.Array:
    """Resizes a crop of each image to the canvas by antialiased bicubic interpolation, as Pillow.

    `segjax.data.examples.crop` chooses the crops, and the device resizes them. Each image has two
    small matrices of its own, for rows and for columns. They cost a third of a percent of what
    ViT-B/16 computes in training. As in Pillow, columns are resized first, and the result is
    rounded. In a transposed frame rows are resized first, which differs from Pillow where edges
    cross.

    Args:
      frames: uint8 [B, F, G, 3], crops in the top left corner of their frames.
      windows: int [B, 4]: height and width of the crop, 1 if the frame holds it transposed, 1 to
        mirror it.
      canvas: Side S of the result, in pixels.

    Returns:
      uint8 [B, S, S, 3]. Pixels of the frame outside the crop do not affect it.
    """
    height, width, transposed, mirrored = windows.T
    size = frames.shape[1:3]
    down = antialiased_cubic_weights(jnp.where(transposed, width, height), size[0], canvas)
    across = antialiased_cubic_weights(jnp.where(transposed, height, width), size[1], canvas)
    round_pixels = lambda pixels: jnp.clip(jnp.round(pixels), 0, 255)
    pixels = jnp.einsum("bxg,bfgc->bfxc", across, frames.astype(jnp.float32), precision="high")
    pixels = jnp.einsum("byf,bfxc->byxc", down, round_pixels(pixels), precision="high")
    pixels = round_pixels(pixels).astype(jnp.uint8)
    pixels = jnp.where(transposed[:, None, None, None], jnp.swapaxes(pixels, 1, 2), pixels)
    return jnp.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)


def antialiased_cubic_weights(lengths: jax.Array, size: int, target: int) -> jax.Array:
    """Computes the matrices that resize crops of several lengths to one, as Pillow does.

    The kernel is Keys' cubic with a = -0.5, widened when the crop shrinks. PyTorch's bicubic
    resize, which has a = -0.75 and no antialiasing, is `positions.cubic_weights`.

    Args:
      lengths: int [B], lengths of the crops. A crop is the first samples of its frame.
      size: Samples of a frame.
      target: Samples of the result.

    Returns:
      float32 [B, target, size].
    """
    scale = (lengths / target)[:, None, None]
    position = (jnp.arange(target)[:, None] + 0.5) * scale
    distance = jnp.abs(jnp.arange(size) + 0.5 - position) / jnp.maximum(scale, 1)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0))
    weights = jnp.where(jnp.arange(size) < lengths[:, None, None], weights, 0)
    return weights / weights.sum(-1, keepdims=True)
