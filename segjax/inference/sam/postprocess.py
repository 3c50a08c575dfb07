"""Masks of the mask grid brought to the pixels of a picture and measured there, tile by tile.

A pixel's logit is a mean of the cells around it, so in a tile all of whose cells are far enough below the threshold
there is nothing to find: it is not computed. On large pictures that is most of the work of most masks.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.images.transforms import compute_fitted_size
from segjax.models.sam.sam import Sam
from segjax.ops.resize import linear_weights

TILE = 512  # px
_ROUNDING = 1e-2  # logits; far more than the error of a mean in float32


class MaskMeasurements(NamedTuple):
    """k masks of a picture.

    tiles: bool [k, m, n, t, u], tile by tile, row by row, False on what is padding; see `extract_box`. stability:
    float32 [k], IoU of the masks at the two thresholds, 0 where both are empty. boxes: int32 [k, 4], first and last
    column and row, zeros of an empty mask. areas: int32 [k], px.
    """

    tiles: jax.Array
    stability: jax.Array
    boxes: jax.Array
    areas: jax.Array


def make_axis_weights(model: Sam, hw: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """The ways of rows and columns from the mask grid to a picture of size `hw`, padded to whole tiles: [tiles, t, 4h].

    Small pictures are one tile, whose sides are rounded up all the same, so that many sizes share a program.
    """
    return tuple(
        weights.reshape(-1, min(TILE, len(weights)), model.mask_side)
        for content, original in zip(compute_fitted_size(hw, model.canvas), hw, strict=True)
        for multiple in [ROUND_UP if original <= TILE else TILE]
        for weights in [pad_image_weights(model.mask_side, model.canvas, content, original, multiple)]
    )


@jax.jit
def measure(
    logits: jax.Array, index: jax.Array, rows: jax.Array, columns: jax.Array, offset: jax.Array
) -> MaskMeasurements:
    """Masks at full size, one after another, how stable they are, and where.

    Args:
      logits: [1, P, 4, 4h, 4w]; index: int [k, 2], which prompt and which of its three masks.
      rows, columns: `make_axis_weights`.
      offset: by which the threshold of 0 is moved up and down.
    """
    reached_rows, reached_columns = (
        jnp.any(weights > 0, axis=1).astype(jnp.float32) for weights in (rows, columns)
    )
    floor = -jnp.abs(offset) - _ROUNDING

    def of_mask(place: jax.Array) -> MaskMeasurements:
        low_res = logits[0, place[0], place[1] + 1]
        cells = (low_res > floor).astype(jnp.float32)
        active = reached_rows @ cells @ reached_columns.T > 0
        of_band = lambda band: jax.lax.map(
            functools.partial(_tile, low_res, offset, band[0]), (columns, band[1])
        )
        tiles, down, across, area, inner, outer = jax.lax.map(of_band, (rows, active))
        (x1, x2), (y1, y2) = _ends(across.any(0).ravel()), _ends(down.any(1).ravel())
        area, inner, outer = (numbers.sum() for numbers in (area, inner, outer))
        stability = jnp.where(outer > 0, inner / jnp.maximum(outer, 1), 0)
        return MaskMeasurements(tiles, stability, jnp.stack([x1, y1, x2, y2]), area)

    return jax.lax.map(of_mask, index)


def _tile(
    low_res: jax.Array,
    offset: jax.Array,
    rows: jax.Array,
    columns_active: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, ...]:
    """A tile's mask [t, u], the rows and the columns that it reaches, and its pixels above 0, `offset` and -`offset`.

    All of that is zeros, without computing it, unless the tile is active.
    """
    columns, active = columns_active

    def computed() -> tuple[jax.Array, ...]:
        across = jnp.matmul(low_res, columns.T, precision="highest")
        full = jnp.matmul(rows, across, precision="highest")
        real = jnp.any(rows > 0, axis=1)[:, None] & jnp.any(
            columns > 0, axis=1
        )  # what is padding has no weights
        full = jnp.where(real, full, -jnp.inf)
        counts = (jnp.sum(full > threshold, dtype=jnp.int32) for threshold in (0, offset, -offset))
        return full > 0, jnp.any(full > 0, axis=1), jnp.any(full > 0, axis=0), *counts

    nothing = jax.eval_shape(computed)
    return jax.lax.cond(
        active, computed, lambda: tuple(jnp.zeros(out.shape, out.dtype) for out in nothing)
    )


def _ends(inside: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and last place that is True, 0 and 0 if none is."""
    first, last = jnp.argmax(inside), len(inside) - 1 - jnp.argmax(inside[::-1])
    return jnp.where(inside.any(), first, 0).astype(jnp.int32), jnp.where(
        inside.any(), last, 0
    ).astype(jnp.int32)


def extract_box(tiles: np.ndarray, box: np.ndarray) -> np.ndarray:
    """What a box holds of one mask: bool [h, w].

    Args:
      tiles: bool [m, n, t, u] of `MaskMeasurements`. box: int [4], first and last column and row.
    """
    (x1, y1, x2, y2), (height, width) = box, tiles.shape[2:]
    bands, across = slice(y1 // height, y2 // height + 1), slice(x1 // width, x2 // width + 1)
    touched = np.concatenate(np.concatenate(tiles[bands, across], axis=1), axis=1)
    top, left = y1 - bands.start * height, x1 - across.start * width
    return touched[top : top + y2 - y1 + 1, left : left + x2 - x1 + 1]


ROUND_UP = 128  # px: pictures whose sides round up to the same share their compiled programs


@functools.lru_cache(maxsize=64)
def compute_image_weights(cells: int, canvas: int, content: int, original: int) -> np.ndarray:
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
def pad_image_weights(
    cells: int, canvas: int, content: int, original: int, multiple: int = ROUND_UP
) -> jax.Array:
    """`compute_image_weights` on the device, with rows of zeros that bring their number to a multiple: [.., cells]."""
    weights = compute_image_weights(cells, canvas, content, original)
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
      rows: [H', 4h], columns: [W', 4w]: `pad_image_weights`.

    Returns:
      masks [M, H', W'], bool (logits > 0) or float32 logits, beyond H and W of no meaning; low_res float32
      [M, 4h, 4w].
    """
    low_res = logits[row, place, 1:] if multimask else logits[row, place, :1]
    full = jnp.einsum("mhw,xw->mhx", low_res, columns, precision="highest")
    full = jnp.einsum("yh,mhx->myx", rows, full, precision="highest")
    return (full if return_logits else full > 0), low_res
