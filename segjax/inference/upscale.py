"""From the mask grid to the pixels of the original image."""

import functools

import jax
import jax.numpy as jnp

from segjax.ops.resize import resize_bilinear


@functools.lru_cache(maxsize=64)
def image_weights(cells: int, canvas: int, content: int, original: int) -> jax.Array:
    """The way of one axis from the mask grid to the original image, as a matrix float32 [original, cells].

    SAM resizes bilinearly to the canvas, cuts off the padding and resizes again (segment-anything,
    `postprocess_masks`). Each is linear and separable, so the whole is one small matrix an axis.

    Args:
      cells: of the mask grid. canvas: pixels of the canvas. content: pixels of it that hold image.
      original: pixels of the original image.
    """
    columns = resize_bilinear(jnp.eye(cells), (canvas, cells))[:content]
    return resize_bilinear(columns, (original, cells))


@functools.partial(jax.jit, static_argnames=("multimask", "return_logits"))
def to_image(
    logits: jax.Array, rows: jax.Array, columns: jax.Array, *, multimask: bool, return_logits: bool
) -> tuple[jax.Array, jax.Array]:
    """Chooses the masks asked for and brings them to the original image.

    Args:
      logits: [P, 4, 4h, 4w]; 0 is the single mask, 1..3 the three of an ambiguous prompt.
      rows: [H, 4h], columns: [W, 4w]: `image_weights`.

    Returns:
      masks [P, M, H, W], bool (logits > 0) or float32 logits; low_res float32 [P, M, 4h, 4w].
    """
    low_res = logits[:, 1:] if multimask else logits[:, :1]
    full = jnp.einsum("pmhw,xw->pmhx", low_res, columns, precision="highest")
    full = jnp.einsum("yh,pmhx->pmyx", rows, full, precision="highest")
    return (full if return_logits else full > 0), low_res
