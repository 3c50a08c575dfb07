"""Keypoints of a box as one cell each of a heatmap (Mask R-CNN, section 5): what to learn, and what was found."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.ops.positions import cubic_tap

_TILE = 64  # pixels of the enlarged heatmap on a side, looked through at a time
_LARGEST = 8192  # pixels on a side of a box: what is larger is decoded as if it had so many


def encode_keypoints(
    keypoints: jax.Array, boxes: jax.Array, size: int = 56
) -> tuple[jax.Array, jax.Array]:
    """The cell of a heatmap that each keypoint is in.

    Args:
      keypoints: [R, K, 3], x, y in the boxes' frame and a visibility, above 0 if it is known: those of the object that
        each proposal was matched to.
      boxes: [R, 4], proposals.
      size: cells on a side.

    Returns:
      cell: int32 [R, K], row * size + column; 0 where there is none.
      valid: bool [R, K]: known, and in the box. On its right or lower edge a keypoint is in the last cell.
    """
    keypoints, boxes = jnp.asarray(keypoints, jnp.float32), jnp.asarray(boxes, jnp.float32)[:, None]
    xy, low, high = keypoints[..., :2], boxes[..., :2], boxes[..., 2:]
    extent = high - low
    cell = jnp.floor((xy - low) * (size / jnp.where(extent > 0, extent, 1)))
    cell = jnp.where(xy == high, size - 1, cell)
    inside = jnp.all((cell >= 0) & (cell < size) & (extent > 0), axis=-1)
    valid = inside & (keypoints[..., 2] > 0)
    column, row = jnp.moveaxis(jnp.where(valid[..., None], cell, 0).astype(jnp.int32), -1, 0)
    return row * size + column, valid


class Keypoints(NamedTuple):
    xy: jax.Array  # float32 [R, K, 2], in the boxes' frame
    logit: jax.Array  # float32 [R, K], of the enlarged heatmap at its peak: torchvision's score
    score: (
        jax.Array
    )  # float32 [R, K], the peak's share of the probability over the heatmap's cells: detectron2's


def decode_keypoints(heatmaps: jax.Array, boxes: jax.Array) -> Keypoints:
    """The peak of each heatmap, enlarged to the pixels of its box by bicubic interpolation.

    The published models enlarge a heatmap to as many pixels as its box has, rounded up. Here it is enlarged by tiles,
    of which as many are made as the box has and only the best pixel is kept, so that one program fits all boxes.

    Args:
      heatmaps: [R, S, S, K], logits. boxes: [R, 4]; a side counts as 1 pixel at least.
    """
    boxes = jnp.nan_to_num(jnp.asarray(boxes, jnp.float32), posinf=0, neginf=0)
    return Keypoints(*jax.lax.map(_decode, (jnp.asarray(heatmaps, jnp.float32), boxes)))


def _decode(region: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    heatmap, box = region
    size, _, points = heatmap.shape
    extent = jnp.maximum(box[2:] - box[:2], 1)
    width, height = jnp.minimum(jnp.ceil(extent), _LARGEST).astype(jnp.int32)
    tiles_across = (width + _TILE - 1) // _TILE

    def look(tile, best):
        row = tile // tiles_across * _TILE + jnp.arange(_TILE)
        column = tile % tiles_across * _TILE + jnp.arange(_TILE)
        strip = jnp.einsum(
            "ys,sxk->yxk", _cubic_weights(row, height, size), heatmap, precision="highest"
        )
        values = jnp.einsum(
            "xs,ysk->yxk", _cubic_weights(column, width, size), strip, precision="highest"
        )
        inside = (row < height)[:, None] & (column < width)
        values = jnp.where(inside[..., None], values, -jnp.inf).reshape(-1, points)
        place = jnp.argmax(values, axis=0)
        value, place = jnp.max(values, axis=0), (row[:, None] * width + column).reshape(-1)[place]
        better = (value > best[0]) | ((value == best[0]) & (place < best[1]))
        return jnp.where(better, value, best[0]), jnp.where(better, place, best[1])

    tiles = (height + _TILE - 1) // _TILE * tiles_across
    first = jnp.full(points, -jnp.inf), jnp.zeros(points, jnp.int32)
    logit, place = jax.lax.fori_loop(0, tiles, look, first)
    xy = (jnp.stack([place % width, place // width], axis=-1) + 0.5) * (
        extent / jnp.stack([width, height])
    ) + box[:2]
    return xy, logit, 1 / jnp.sum(jnp.exp(heatmap - logit), axis=(0, 1))


def _cubic_weights(pixel: jax.Array, pixels: jax.Array, size: int) -> jax.Array:
    """Rows [n, size] of the matrix that enlarges `size` samples to `pixels`, as `positions.cubic_weights` makes it."""
    position = (pixel + 0.5) * (size / pixels.astype(jnp.float32)) - 0.5
    first, weights = jnp.floor(position) - 1, 0.0
    for tap in range(4):
        place = jnp.clip(first + tap, 0, size - 1)[:, None]
        weights = weights + jnp.where(
            place == jnp.arange(size), cubic_tap(tap, abs(position - first - tap))[:, None], 0
        )
    return weights
