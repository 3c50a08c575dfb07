"""Resizing of predicted masks from the mask grid to the pixels of the original image.

SAM resizes mask logits bilinearly to the canvas, crops the padding and resizes again to the
original size (segment-anything, `postprocess_masks`). Every step is linear and separable, so the
whole is one small matrix per axis.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.resize import linear_weights

ROUND_UP = 128  # px. Images whose sides round up to the same sizes share compiled programs.


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


@functools.partial(jax.jit, static_argnames=("multimask", "return_logits"))
def resize_to_image(
    logits: jax.Array,
    row: int,
    slot: int,
    rows: jax.Array,
    columns: jax.Array,
    *,
    multimask: bool,
    return_logits: bool,
) -> tuple[jax.Array, jax.Array]:
    """Selects the requested masks of one prompt and resizes them to the original image.

    One prompt at a time, because full-size logits of all prompts of a large image take gigabytes.

    Args:
      logits: float32 [R, P, 4, 4h, 4w]. Index 0 is the single mask, 1..3 the three masks of an
        ambiguous prompt.
      row: Row of the prompt, an index into R.
      slot: Slot of the prompt, an index into P.
      rows: float32 [H', 4h], from `pad_image_weights`.
      columns: float32 [W', 4w], from `pad_image_weights`.
      multimask: Select the three masks (M = 3) instead of the single one.
      return_logits: Return masks as logits instead of thresholding at 0.

    Returns:
      masks: [M, H', W'], bool or float32 logits. Values beyond H and W are padding.
      low_res: float32 [M, 4h, 4w], logits on the mask grid.
    """
    low_res = logits[row, slot, 1:] if multimask else logits[row, slot, :1]
    full = jnp.einsum("mhw,xw->mhx", low_res, columns, precision="highest")
    full = jnp.einsum("yh,mhx->myx", rows, full, precision="highest")
    return (full if return_logits else full > 0), low_res
