"""From the mask grid to the pixels of the original image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from segjax.ops.resize import linear_weights

ROUND_UP = 128  # px: pictures whose sides round up to the same share their compiled programs


@functools.lru_cache(maxsize=64)
def image_weights(cells: int, canvas: int, content: int, original: int) -> np.ndarray:
    """The way of one axis from the mask grid to the original image, as a matrix float32 [original, cells].

    SAM resizes bilinearly to the canvas, cuts off the padding and resizes again (segment-anything,
    `postprocess_masks`). Each is linear and separable, so the whole is one small matrix an axis.

    Args:
      cells: of the mask grid. canvas: pixels of the canvas. content: pixels of it that hold image.
      original: pixels of the original image.
    """
    columns = linear_weights(cells, canvas)[:content]
    return columns if content == original else linear_weights(content, original) @ columns


@functools.lru_cache(maxsize=64)
def rounded_weights(cells: int, canvas: int, content: int, original: int, multiple: int = ROUND_UP) -> jax.Array:
    """`image_weights` on the device, with rows of zeros that bring their number to a multiple: [.., cells]."""
    weights = image_weights(cells, canvas, content, original)
    return jnp.asarray(np.pad(weights, ((0, -original % multiple), (0, 0))))


@functools.partial(jax.jit, static_argnames=("multimask", "return_logits"))
def to_image(
    logits: jax.Array,
    row: int,
    place: int,
    rows: jax.Array,
    columns: jax.Array,
    *,
    multimask: bool,
    return_logits: bool,
) -> tuple[jax.Array, jax.Array]:
    """Chooses the masks asked for of one prompt and brings them to the original image.

    One prompt at a time: full-size logits of all prompts of a large picture would be gigabytes.

    Args:
      logits: [R, P, 4, 4h, 4w]; 0 is the single mask, 1..3 the three of an ambiguous prompt.
      row, place: which of the R x P prompts.
      rows: [H', 4h], columns: [W', 4w]: `rounded_weights`.

    Returns:
      masks [M, H', W'], bool (logits > 0) or float32 logits, beyond H and W of no meaning; low_res float32
      [M, 4h, 4w].
    """
    low_res = logits[row, place, 1:] if multimask else logits[row, place, :1]
    full = jnp.einsum("mhw,xw->mhx", low_res, columns, precision="highest")
    full = jnp.einsum("yh,mhx->myx", rows, full, precision="highest")
    return (full if return_logits else full > 0), low_res
