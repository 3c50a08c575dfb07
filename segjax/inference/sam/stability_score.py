"""Stability score, box and area of predicted masks, measured at full size, tile by tile.

A pixel's logit is a weighted mean of the cells around it. If all cells of a tile are far enough
below the threshold, the tile holds no mask pixel and is not computed. On large images that saves
most of the work for most masks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.transforms import compute_fitted_size
from segjax.inference.sam.postprocess import ROUND_UP, pad_image_weights
from segjax.models.sam.sam import Sam

TILE = 512  # px
_ROUNDING = 1e-2  # logits. Far more than the error of a weighted mean in float32.


def stability_score(inner: jax.Array, outer: jax.Array) -> jax.Array:
    """Computes the stability score of a mask (SAM, appendix B, "Automatic mask generation").

    A mask is stable if it hardly changes when the threshold of its logits changes. The score is the
    IoU of the mask thresholded at +offset and at -offset. The first lies inside the second, so

        stability score = area(logits > offset) / area(logits > -offset).

    `SamAutomaticMaskGenerator` drops masks whose score is below `stability_score_thresh` (0.95 by
    default). The offset is `stability_score_offset` (1.0 by default).

    Example:
      >>> logits = jnp.array([[-2.0, -0.5, 3.0, 4.0]])
      >>> stability_score((logits > 1).sum(), (logits > -1).sum())  # 2 of 3 pixels
      Array(0.6666667, dtype=float32)

    Args:
      inner: int [...], pixels above +offset.
      outer: int [...], pixels above -offset.

    Returns:
      float32 [...] between 0 and 1. It is 0 where `outer` is 0.
    """
    return jnp.where(outer > 0, inner / jnp.maximum(outer, 1), 0)


class MaskMeasurements(NamedTuple):
    """Masks of an image at full size, with their measurements.

    Attributes:
      tiles: bool [k, m, n, t, u], m x n tiles of each mask. Padding is False. See `extract_box`.
      stability: float32 [k], the stability scores.
      boxes: int32 [k, 4], first column, first row, last column, last row. Zeros for an empty mask.
      areas: int32 [k], in pixels.
    """

    tiles: jax.Array
    stability: jax.Array
    boxes: jax.Array
    areas: jax.Array


def make_axis_weights(model: Sam, hw: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Computes the matrices that resize masks to an image, split into tiles.

    A small image is one tile. Its sides are rounded up as well, so that many sizes share a program.

    Args:
      model: The SAM.
      hw: (height, width) of the image, in pixels.

    Returns:
      rows: float32 [m, t, 4h].
      columns: float32 [n, u, 4w].
    """
    return tuple(
        weights.reshape(-1, min(TILE, len(weights)), model.mask_side)
        for content, original in zip(compute_fitted_size(hw, model.canvas), hw, strict=True)
        for multiple in [ROUND_UP if original <= TILE else TILE]
        for weights in [
            pad_image_weights(model.mask_side, model.canvas, content, original, multiple)
        ]
    )


@jax.jit
def measure_masks(
    logits: jax.Array, index: jax.Array, rows: jax.Array, columns: jax.Array, offset: jax.Array
) -> MaskMeasurements:
    """Computes masks at full size and measures them, one after another.

    Args:
      logits: float32 [1, P, 4, 4h, 4w], from `decode_prompts`.
      index: int [k, 2], the prompt of each mask and which of the prompt's three masks it is.
      rows: float32 [m, t, 4h], from `make_axis_weights`.
      columns: float32 [n, u, 4w], from `make_axis_weights`.
      offset: Offset of the two thresholds of the stability score, in logits.
    """
    # A tile is active if any cell that contributes to it can exceed the lower threshold.
    reached_rows, reached_columns = (
        jnp.any(weights > 0, axis=1).astype(jnp.float32) for weights in (rows, columns)
    )
    floor = -jnp.abs(offset) - _ROUNDING

    def measure_mask(prompt_and_mask: jax.Array) -> MaskMeasurements:
        low_res = logits[0, prompt_and_mask[0], prompt_and_mask[1] + 1]
        cells = (low_res > floor).astype(jnp.float32)
        active = reached_rows @ cells @ reached_columns.T > 0
        measure_band = lambda band: jax.lax.map(
            functools.partial(_measure_tile, low_res, offset, band[0]), (columns, band[1])
        )
        tiles, down, across, area, inner, outer = jax.lax.map(measure_band, (rows, active))
        (x1, x2), (y1, y2) = _find_ends(across.any(0).ravel()), _find_ends(down.any(1).ravel())
        area, inner, outer = (numbers.sum() for numbers in (area, inner, outer))
        box = jnp.stack([x1, y1, x2, y2])
        return MaskMeasurements(tiles, stability_score(inner, outer), box, area)

    return jax.lax.map(measure_mask, index)


def _measure_tile(
    low_res: jax.Array,
    offset: jax.Array,
    rows: jax.Array,
    columns_active: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, ...]:
    """Computes one tile of a mask. Inactive tiles are zeros and are not computed.

    Returns:
      The mask [t, u], the rows [t] and the columns [u] that it reaches, and the numbers of pixels
      above 0, above `offset` and above -`offset`.
    """
    columns, active = columns_active

    def compute() -> tuple[jax.Array, ...]:
        across = jnp.matmul(low_res, columns.T, precision="highest")
        full = jnp.matmul(rows, across, precision="highest")
        # Padding has no weights.
        real = jnp.any(rows > 0, axis=1)[:, None] & jnp.any(columns > 0, axis=1)
        full = jnp.where(real, full, -jnp.inf)
        counts = (jnp.sum(full > threshold, dtype=jnp.int32) for threshold in (0, offset, -offset))
        return full > 0, jnp.any(full > 0, axis=1), jnp.any(full > 0, axis=0), *counts

    shapes = jax.eval_shape(compute)
    return jax.lax.cond(
        active, compute, lambda: tuple(jnp.zeros(out.shape, out.dtype) for out in shapes)
    )


def _find_ends(inside: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the first and the last index that is True, or 0 and 0 if none is."""
    first, last = jnp.argmax(inside), len(inside) - 1 - jnp.argmax(inside[::-1])
    return jnp.where(inside.any(), first, 0).astype(jnp.int32), jnp.where(
        inside.any(), last, 0
    ).astype(jnp.int32)


def extract_box(tiles: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Returns the part of one mask that lies in a box.

    Args:
      tiles: bool [m, n, t, u], one mask of `MaskMeasurements`.
      box: int [4], first column, first row, last column, last row.

    Returns:
      bool [h, w], the pixels of the box.
    """
    (x1, y1, x2, y2), (height, width) = box, tiles.shape[2:]
    bands, across = slice(y1 // height, y2 // height + 1), slice(x1 // width, x2 // width + 1)
    touched = np.concatenate(np.concatenate(tiles[bands, across], axis=1), axis=1)
    top, left = y1 - bands.start * height, x1 - across.start * width
    return touched[top : top + y2 - y1 + 1, left : left + x2 - x1 + 1]
