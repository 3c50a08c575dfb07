"""Encoding of keypoints as heatmap cells, and decoding of heatmaps (Mask R-CNN, section 5)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from segjax.ops.positions import cubic_tap

_TILE = 64  # side in pixels of the part of an enlarged heatmap that is searched at a time
_LARGEST = 8192  # side in pixels of the largest enlarged heatmap. Larger boxes are decoded from it


def encode_keypoints(
    keypoints: jax.Array, boxes: jax.Array, size: int = 56
) -> tuple[jax.Array, jax.Array]:
    """Computes the heatmap cell that contains each keypoint.

    Example:
      >>> cell, valid = encode_keypoints(jnp.array([[[9, 0, 2]]]), jnp.array([[0, 0, 10, 10]]), 2)
      >>> cell.tolist(), valid.tolist()
      ([[1]], [[True]])

    Args:
      keypoints: [R, K, 3], x and y in the frame of the boxes, and a visibility, which is above 0
        for known keypoints. They belong to the object that each proposal was matched to.
      boxes: [R, 4], proposals.
      size: side of the heatmap in cells.

    Returns:
      cell: int32 [R, K], row * size + column, 0 if the keypoint is not valid.
      valid: bool [R, K], True for known keypoints inside the box. A keypoint on the right or lower
        edge is in the last cell.
    """
    keypoints, boxes = jnp.asarray(keypoints, jnp.float32), jnp.asarray(boxes, jnp.float32)[:, None]
    xy, low, high = keypoints[..., :2], boxes[..., :2], boxes[..., 2:]
    extent = high - low
    cell = jnp.floor((xy - low) * (size / jnp.where(extent > 0, extent, 1)))
    # The last cell includes its outer edge.
    cell = jnp.where(xy == high, size - 1, cell)
    inside = jnp.all((cell >= 0) & (cell < size) & (extent > 0), axis=-1)
    valid = inside & (keypoints[..., 2] > 0)
    column, row = jnp.moveaxis(jnp.where(valid[..., None], cell, 0).astype(jnp.int32), -1, 0)
    return row * size + column, valid


class Keypoints(NamedTuple):
    """Decoded keypoints.

    Attributes:
      xy: float32 [R, K, 2], x and y in the frame of the boxes.
      logit: float32 [R, K], the enlarged heatmap at its peak, torchvision's score.
      score: float32 [R, K], the peak's share of the probability over the heatmap's cells,
        detectron2's score.
    """

    xy: jax.Array
    logit: jax.Array
    score: jax.Array


def decode_keypoints(heatmaps: jax.Array, boxes: jax.Array) -> Keypoints:
    """Decodes each keypoint as the peak of its heatmap, enlarged bicubically to its box.

    The published models enlarge a heatmap to the size of its box in pixels, rounded up. Here the
    enlarged heatmap is computed and searched tile by tile, so that one program fits all boxes.

    Args:
      heatmaps: [R, S, S, K], logits.
      boxes: [R, 4]. A side counts as at least 1 pixel.
    """
    boxes = jnp.nan_to_num(jnp.asarray(boxes, jnp.float32), posinf=0, neginf=0)
    return Keypoints(*jax.lax.map(_decode, (jnp.asarray(heatmaps, jnp.float32), boxes)))


def _decode(region: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Decodes the keypoints of one region: heatmap [S, S, K], box [4]."""
    heatmap, box = region
    size, _, points = heatmap.shape
    extent = jnp.maximum(box[2:] - box[:2], 1)
    width, height = jnp.minimum(jnp.ceil(extent), _LARGEST).astype(jnp.int32)
    tiles_across = (width + _TILE - 1) // _TILE

    def search_tile(tile, best):
        """Updates the best logit and its pixel by those of one tile of the enlarged heatmap."""
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
        peak = jnp.argmax(values, axis=0)
        value, pixel = jnp.max(values, axis=0), (row[:, None] * width + column).reshape(-1)[peak]
        # Of equal values the first pixel of the whole heatmap wins, as in one argmax.
        better = (value > best[0]) | ((value == best[0]) & (pixel < best[1]))
        return jnp.where(better, value, best[0]), jnp.where(better, pixel, best[1])

    # Row by row over the tiles of the enlarged heatmap
    tiles = (height + _TILE - 1) // _TILE * tiles_across
    first = jnp.full(points, -jnp.inf), jnp.zeros(points, jnp.int32)
    logit, pixel = jax.lax.fori_loop(0, tiles, search_tile, first)
    # Centers of pixels, scaled from whole pixels to the exact size of the box
    xy = (jnp.stack([pixel % width, pixel // width], axis=-1) + 0.5) * (
        extent / jnp.stack([width, height])
    ) + box[:2]
    return xy, logit, 1 / jnp.sum(jnp.exp(heatmap - logit), axis=(0, 1))


def _cubic_weights(pixel: jax.Array, pixels: jax.Array, size: int) -> jax.Array:
    """Returns rows of the matrix that enlarges `size` samples to `pixels`, [n, size].

    Equal to `positions.cubic_weights`, but for a traced number of pixels.
    """
    position = (pixel + 0.5) * (size / pixels.astype(jnp.float32)) - 0.5
    first, weights = jnp.floor(position) - 1, 0.0
    for tap in range(4):
        sample = jnp.clip(first + tap, 0, size - 1)[:, None]
        weights = weights + jnp.where(
            sample == jnp.arange(size), cubic_tap(tap, abs(position - first - tap))[:, None], 0
        )
    return weights
