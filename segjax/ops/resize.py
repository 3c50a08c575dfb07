"""Resizing and rearranging of maps, tables and crops.

Maps and tables follow the half-pixel convention of
`torch.nn.functional.interpolate(align_corners=False)`. `jax.image.resize` averages when it shrinks
(antialiasing) unless told not to. The published models were trained without it, so every resize of
maps and tables uses this file. Crops of training images are resized as Pillow does.
"""

import jax
import jax.numpy as jnp
import numpy as np


def linear_weights(size: int, target: int) -> np.ndarray:
    """Computes the matrix of linear interpolation along one axis.

    PyTorch computes positions in float32, with a single rounding of the product and the half pixel.
    This function does the same. At a thousand pixels the difference moves a weight by 6e-5, which
    decides for pixels on the edge of a mask.

    Example:
      >>> linear_weights(2, 4)
      array([[1.  , 0.  ],
             [0.75, 0.25],
             [0.25, 0.75],
             [0.  , 1.  ]], dtype=float32)

    Args:
      size: Samples of the input.
      target: Samples of the output.

    Returns:
      float32 [target, size]. Row t holds the two weights of output sample t.
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
    """Computes weights of linear interpolation at arbitrary positions.

    Samples lie at 0, 1, 2, ..., size - 1, and zeros lie beyond them.

    Args:
      position: float [...], in samples. A NumPy or jax array.
      size: Number of samples.

    Returns:
      [..., size], an array of the same library.
    """
    xp = np if isinstance(position, np.ndarray) else jnp
    return xp.maximum(1 - abs(position[..., None] - xp.arange(size, dtype=position.dtype)), 0)


def resize_bilinear(x: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Resizes the last two axes bilinearly, with half-pixel centers and no antialiasing.

    Two small dense matrices do the work, which is fast on every backend, and so is the gradient.

    Args:
      x: [..., H, W], any float type. Interpolation runs in float32.
      shape: (H2, W2).

    Returns:
      [..., H2, W2], of x's type.
    """
    height, width = x.shape[-2:]
    out = x.astype(jnp.float32)
    if width != shape[1]:
        out = jnp.matmul(out, linear_weights(width, shape[1]).T, precision="highest")
    if height != shape[0]:
        out = jnp.matmul(linear_weights(height, shape[0]), out, precision="highest")
    return out.astype(x.dtype)


def resize_table(table: jax.Array, length: int) -> jax.Array:
    """Resizes axis 0 linearly, as SAM resizes relative positions to another grid.

    Args:
      table: [L, D].
      length: Rows of the result.

    Returns:
      [length, D].
    """
    if table.shape[0] == length:
        return table
    return jnp.matmul(linear_weights(table.shape[0], length), table, precision="highest")


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Moves blocks of pixels into channels.

    Args:
      x: [..., H, W, C].
      block: Side of a block.

    Returns:
      [..., H/block, W/block, block*block*C], channels ordered (row, column, C) as in a kernel.

    Raises:
      ValueError: The block does not divide the map.
    """
    *lead, height, width, channels = x.shape
    if height % block or width % block:
        raise ValueError(
            f"a map of {height}x{width} does not divide into blocks of {block}; resize or pad it "
            "first"
        )
    x = x.reshape(*lead, height // block, block, width // block, block, channels)
    x = jnp.moveaxis(x, -3, -4)
    return x.reshape(*lead, height // block, width // block, block * block * channels)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
    """Inverts `space_to_depth`.

    Args:
      x: [..., h, w, block*block*C].
      block: Side of a block.

    Returns:
      [..., h*block, w*block, C].
    """
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
    # Pillow rounds to 8 bits between the two passes.
    round_pixels = lambda pixels: jnp.clip(jnp.round(pixels), 0, 255)
    pixels = jnp.einsum("bxg,bfgc->bfxc", across, frames.astype(jnp.float32), precision="high")
    pixels = jnp.einsum("byf,bfxc->byxc", down, round_pixels(pixels), precision="high")
    pixels = round_pixels(pixels).astype(jnp.uint8)
    # Undo the transposition, then mirror.
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
