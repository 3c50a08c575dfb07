"""Resizing of predicted masks from the mask grid to the pixels of the original image.

SAM resizes mask logits bilinearly to the canvas, crops the padding and resizes again to the
original size (segment-anything, `postprocess_masks`). Every step is linear and separable, so the
whole is one small matrix per axis.

Masks are computed in blocks of few shapes, which serve images of every size: an image of another
size must not wait for another compilation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.resize import linear_weights

ROUND_UP = 128  # px. Images whose sides round up to the same sizes share compiled programs.
# Pixels of a block along each axis. The last block of an axis has the smallest size that holds it.
BLOCK_ROWS = (256,)
BLOCK_COLUMNS = (512, 768, 1024, 1536, 2048, 3072, 4096)


@functools.lru_cache(maxsize=64)
def compute_image_weights(cells: int, canvas: int, content: int, original: int) -> np.ndarray:
    """Computes the matrix that resizes one axis from the mask grid to the original image.

    Args:
      cells: Cells of the mask grid along the axis.
      canvas: Pixels of the canvas along the axis.
      content: Pixels of the canvas that hold the image.
      original: Pixels of the original image.

    Returns:
      float32 [original, cells].
    """
    columns = linear_weights(cells, canvas)[:content]
    return columns if content == original else linear_weights(content, original) @ columns


@functools.lru_cache(maxsize=64)
def pad_image_weights(
    cells: int, canvas: int, content: int, original: int, multiple: int = ROUND_UP
) -> jax.Array:
    """Returns `compute_image_weights` on the device, padded with rows of zeros.

    Args:
      cells: Cells of the mask grid along the axis.
      canvas: Pixels of the canvas along the axis.
      content: Pixels of the canvas that hold the image.
      original: Pixels of the original image.
      multiple: The number of rows becomes a multiple of this.

    Returns:
      float32 [rows, cells], where rows is at least `original`.
    """
    weights = compute_image_weights(cells, canvas, content, original)
    return jnp.asarray(np.pad(weights, ((0, -original % multiple), (0, 0))))


@functools.lru_cache(maxsize=64)
def split_image_weights(
    cells: int, canvas: int, content: int, original: int, sizes: tuple[int, ...]
) -> tuple[tuple[int, int, jax.Array], ...]:
    """Splits the matrix of `compute_image_weights` into blocks of output pixels, on the device.

    Args:
      cells: Cells of the mask grid along the axis.
      canvas: Pixels of the canvas along the axis.
      content: Pixels of the canvas that hold the image.
      original: Pixels of the original image.
      sizes: Allowed numbers of pixels of a block, increasing.

    Returns:
      (start, stop, weights) of each block. The weights float32 [size, cells] give the pixels from
      `start` to `stop`, and zeros beyond.
    """
    weights = compute_image_weights(cells, canvas, content, original)
    blocks, start = [], 0
    while start < original:
        size = next((size for size in sizes if size >= original - start), sizes[-1])
        stop = min(start + size, original)
        padded = np.pad(weights[start:stop], ((0, size - (stop - start)), (0, 0)))
        blocks.append((start, stop, jnp.asarray(padded)))
        start = stop
    return tuple(blocks)


@functools.partial(jax.jit, static_argnames="multimask")
def select_masks(logits: jax.Array, row: int, slot: int, *, multimask: bool) -> jax.Array:
    """Selects the requested masks of one prompt.

    Args:
      logits: float32 [R, P, 4, 4h, 4w]. Index 0 is the single mask, 1..3 the three masks of an
        ambiguous prompt.
      row: Row of the prompt, an index into R.
      slot: Slot of the prompt, an index into P.
      multimask: Select the three masks (M = 3) instead of the single one.

    Returns:
      float32 [M, 4h, 4w], logits on the mask grid.
    """
    return logits[row, slot, 1:] if multimask else logits[row, slot, :1]


@functools.partial(jax.jit, static_argnames="return_logits")
def resize_masks(
    low_res: jax.Array, rows: jax.Array, columns: jax.Array, *, return_logits: bool
) -> jax.Array:
    """Resizes the masks of one prompt to a block of the original image.

    One prompt at a time, because full-size logits of all prompts of a large image take gigabytes.

    Args:
      low_res: float32 [M, 4h, 4w], logits on the mask grid.
      rows: float32 [H', 4h], weights of the block's rows.
      columns: float32 [W', 4w], weights of the block's columns.
      return_logits: Return masks as logits instead of thresholding at 0.

    Returns:
      [M, H', W'], bool or float32 logits.
    """
    # Rows first: their product is the cheap one, and it is repeated for each block of columns
    full = jnp.einsum("yh,mhw->myw", rows, low_res, precision="highest")
    full = jnp.einsum("myw,xw->myx", full, columns, precision="highest")
    return full if return_logits else full > 0
