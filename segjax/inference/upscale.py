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
    logits: jax.Array, prompt: int, rows: jax.Array, columns: jax.Array, *, multimask: bool, return_logits: bool
) -> tuple[jax.Array, jax.Array]:
    """Chooses the masks asked for of one prompt and brings them to the original image.

    One prompt at a time: full-size logits of all prompts of a large picture would be gigabytes.

    Args:
      logits: [P, 4, 4h, 4w]; 0 is the single mask, 1..3 the three of an ambiguous prompt.
      prompt: which of the P.
      rows: [H, 4h], columns: [W, 4w]: `image_weights`.

    Returns:
      masks [M, H, W], bool (logits > 0) or float32 logits; low_res float32 [M, 4h, 4w].
    """
    low_res = logits[prompt, 1:] if multimask else logits[prompt, :1]
    full = jnp.einsum("mhw,xw->mhx", low_res, columns, precision="highest")
    full = jnp.einsum("yh,mhx->myx", rows, full, precision="highest")
    return (full if return_logits else full > 0), low_res
