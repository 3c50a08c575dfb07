"""Every mask that a grid of single clicks proposes for a picture, measured at full size and kept as run lengths.

Predicted IoUs are known before a mask is brought to full size, so those below the floor never are; the others are, a
few at a time: however large the picture, full-size logits of more than `BYTES_AT_A_TIME` are never held.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from segjax.data.records import encode_mask
from segjax.data.transforms import fitted_size
from segjax.inference.crops import Crop, cut_off
from segjax.inference.network import decode
from segjax.inference.prompts import PROMPT_COUNTS, Asked, padded_count, stacked
from segjax.inference.upscale import ROUND_UP, rounded_weights
from segjax.models.sam.sam import Sam

BYTES_AT_A_TIME = 2**26


@dataclasses.dataclass(frozen=True)
class Proposals:
    """N masks of one picture, in the order of their crops and points.

    Attributes:
      hw: (height, width) of the picture.
      rle: N compressed run lengths of masks of the picture's size.
      box: float32 [N, 4], x1 y1 x2 y2 of first and last pixels, as segment-anything suppresses them.
      area: int64 [N], px. predicted_iou, stability: float32 [N]. point: float32 [N, 2], the click, px of the picture.
      crop: int [N], index into `crops`.
      floors: predicted IoU and stability that all of them exceed and reach.
    """

    hw: tuple[int, int]
    crops: list[Crop]
    rle: list[str]
    box: np.ndarray
    area: np.ndarray
    predicted_iou: np.ndarray
    stability: np.ndarray
    point: np.ndarray
    crop: np.ndarray
    floors: tuple[float, float]

    def __len__(self) -> int:
        return len(self.rle)

    def take(self, index: np.ndarray) -> "Proposals":
        """Those of the given places, in their order."""
        arrays = ("box", "area", "predicted_iou", "stability", "point", "crop")
        chosen = {name: getattr(self, name)[index] for name in arrays}
        return dataclasses.replace(self, rle=[self.rle[i] for i in index], **chosen)


def joined(
    hw: tuple[int, int], crops: list[Crop], parts: list[dict[str, Any]], floors: tuple[float, float]
) -> Proposals:
    """`Proposals` of what `propose` has found in each crop."""
    shapes = dict(box=(4,), area=(), predicted_iou=(), stability=(), point=(2,), crop=())
    kinds = dict(area=np.int64, crop=np.int64)
    arrays = {
        name: np.concatenate(
            [np.zeros((0, *shape), kinds.get(name, np.float32)), *(part[name] for part in parts if len(part["rle"]))]
        )
        for name, shape in shapes.items()
    }
    return Proposals(hw=hw, crops=crops, floors=floors, rle=[rle for part in parts for rle in part["rle"]], **arrays)


@functools.partial(jax.jit, static_argnames="bands")
def _measure(
    logits: jax.Array,
    index: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    size: jax.Array,
    offset: jax.Array,
    *,
    bands: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Masks at full size, how stable they are, and their boxes.

    Args:
      logits: [1, P, 4, 4h, 4w]; index: int [k, 2], which prompt and which of its three masks.
      rows, columns: `rounded_weights`, whose rows of zeros round their number up: pictures of many sizes share a
        program.
      size: int [2], (H, W) without those.
      offset: by which the threshold is moved up and down. bands: the picture is worked through in that many.

    Returns:
      masks bool [k, H', W'], False on padding; stability float32 [k], IoU of the masks at the two thresholds, 0 where
      both are empty; boxes int32 [k, 4], first and last column and row, zeros of an empty mask.
    """
    low_res = logits[0, index[:, 0], index[:, 1] + 1]
    across = jnp.einsum("mhw,xw->mhx", low_res, columns, precision="highest")

    def band(rows: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        full = jnp.einsum("yh,mhx->myx", rows, across, precision="highest")
        count = lambda inside: jnp.sum(inside, axis=(1, 2), dtype=jnp.int32)
        return full > 0, count(full > offset), count(full > -offset)

    masks, inner, outer = jax.lax.map(band, rows.reshape(bands, -1, rows.shape[1]))
    masks = jnp.moveaxis(masks, 0, 1).reshape(len(index), rows.shape[0], columns.shape[0])
    # Padding has logits of 0: not above the higher threshold, above the lower one unless they are the same.
    padding = rows.shape[0] * columns.shape[0] - jnp.prod(size)
    outer = outer.sum(0) - padding * (offset > 0)
    stability = jnp.where(outer > 0, inner.sum(0) / jnp.maximum(outer, 1), 0)

    def ends(inside: jax.Array) -> tuple[jax.Array, jax.Array]:
        first, last = jnp.argmax(inside, -1), inside.shape[-1] - 1 - jnp.argmax(inside[:, ::-1], -1)
        return jnp.where(inside.any(-1), first, 0), jnp.where(inside.any(-1), last, 0)

    (x1, x2), (y1, y2) = ends(masks.any(1)), ends(masks.any(2))
    return masks, stability, jnp.stack([x1, y1, x2, y2], axis=-1)


def propose(
    model: Sam,
    variables: Mapping[str, Any],
    embedding: jax.Array,
    crop: Crop,
    grid: np.ndarray,
    hw: tuple[int, int],
    *,
    points_per_batch: int,
    iou_floor: float,
    stability_floor: float,
    stability_offset: float,
    advance: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """Proposals of one crop, a batch of points at a time; the fields of `Proposals` but for hw, crops and crop.

    Args:
      embedding: [1, h, w, D] of the crop, fitted to the canvas.
      grid: [N, 2], (x, y) in the unit square of the crop. hw: size of the whole picture.
      iou_floor: predicted IoUs must exceed it; stability_floor: stabilities must reach it.
      advance: told how many points were done.

    Empty masks, and those cut off by an edge of the crop, are left out.
    """
    weights, bands = _banded_weights(model, crop.size)
    full_size = 4 * len(weights[0]) * len(weights[1])
    at_a_time = int(np.clip(BYTES_AT_A_TIME // full_size, 1, 64))
    content = fitted_size(crop.size, model.canvas)
    points = grid * np.array(crop.size[::-1])
    for start in range(0, len(points), points_per_batch):
        clicks = points[start : start + points_per_batch]
        asked = Asked(len(clicks), clicks[:, None], np.ones((len(clicks), 1), np.int32)).scaled(crop.size, content)
        prompts = stacked([asked], (1, min(padded_count(len(clicks), PROMPT_COUNTS), points_per_batch)), slots=1)
        prompts = prompts.replace(boxes=None, has_box=None)  # no box, no tokens for one
        logits, iou = decode(model, variables, [embedding], prompts)
        iou = np.asarray(iou)[0, : len(clicks), 1:]
        wanted = np.argwhere(iou > iou_floor)
        found: dict[str, list] = {name: [] for name in ("rle", "box", "area", "stability", "index")}
        for first in range(0, len(wanted), at_a_time):
            index = wanted[first : first + at_a_time]
            padded = np.pad(index, ((0, at_a_time - len(index)), (0, 0)))
            measured = _measure(
                logits, padded, *weights, np.array(crop.size), np.float32(stability_offset), bands=bands
            )
            _collect(found, measured, index, crop, hw, stability_floor)
        places = np.array(found["index"], int).reshape(-1, 2)
        yield {
            "rle": found["rle"],
            "box": np.array(found["box"], np.float32).reshape(-1, 4),
            "area": np.array(found["area"], np.int64),
            "stability": np.array(found["stability"], np.float32),
            "predicted_iou": iou[places[:, 0], places[:, 1]],
            "point": (clicks[places[:, 0]] + crop.box[:2]).astype(np.float32),
        }
        advance(len(clicks))


def _banded_weights(model: Sam, hw: tuple[int, int]) -> tuple[list[jax.Array], int]:
    """`rounded_weights` of both axes, and into how many bands of rows the picture is then divided."""
    width = -(-hw[1] // ROUND_UP) * ROUND_UP
    bands = -(-4 * hw[0] * width // BYTES_AT_A_TIME)
    steps = (bands * -(-ROUND_UP // bands), ROUND_UP)
    axes = zip(fitted_size(hw, model.canvas), hw, steps, strict=True)
    return [rounded_weights(model.mask_side, model.canvas, *axis) for axis in axes], bands


def _collect(
    found: dict[str, list], measured: tuple, index: np.ndarray, crop: Crop, hw: tuple[int, int], stability_floor: float
) -> None:
    """Adds to `found` what `_measure` says of the masks at `index`, but for those to be left out."""
    masks, stability, boxes = measured
    stability, boxes = (np.asarray(values)[: len(index)] for values in (stability, boxes))
    boxes = boxes + np.array(crop.box[:2] * 2)
    kept = np.flatnonzero((stability >= stability_floor) & ~cut_off(boxes, crop, hw))
    masks = np.asarray(masks) if len(kept) else masks
    for place in kept:
        if area := np.count_nonzero(masks[place]):
            height, width = crop.size
            found["rle"].append(encode_mask(crop.uncropped(masks[place, :height, :width], hw)))
            found["box"].append(boxes[place])
            found["area"].append(area)
            found["stability"].append(stability[place])
            found["index"].append(index[place])
