"""Every mask that a grid of single clicks proposes for a picture, measured at full size and kept as run lengths.

Predicted IoUs are known before a mask is brought to full size, so those below the floor never are; the others are, a
few at a time: however large the picture, no full-size logits are held, and masks of `BYTES_AT_A_TIME` at most.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from segjax.images.transforms import compute_fitted_size
from segjax.inference.sam.crops import Crop, is_cut_off
from segjax.inference.sam.jitted import decode
from segjax.inference.sam.postprocess import MaskMeasurements, make_axis_weights, extract_box, measure
from segjax.inference.sam.prompts import PROMPT_COUNTS, PromptSet, round_up_count, stack_prompts
from segjax.masks import encode_mask_crop
from segjax.models.sam.sam import Sam

BYTES_AT_A_TIME = 2**26


@dataclasses.dataclass(frozen=True)
class MaskCandidates:
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

    def take(self, index: np.ndarray) -> "MaskCandidates":
        """Those of the given places, in their order."""
        arrays = ("box", "area", "predicted_iou", "stability", "point", "crop")
        chosen = {name: getattr(self, name)[index] for name in arrays}
        return dataclasses.replace(self, rle=[self.rle[i] for i in index], **chosen)


def join_candidates(
    hw: tuple[int, int], crops: list[Crop], parts: list[dict[str, Any]], floors: tuple[float, float]
) -> MaskCandidates:
    """`MaskCandidates` of what `propose` has found in each crop."""
    shapes = dict(box=(4,), area=(), predicted_iou=(), stability=(), point=(2,), crop=())
    kinds = dict(area=np.int64, crop=np.int64)
    arrays = {
        name: np.concatenate(
            [
                np.zeros((0, *shape), kinds.get(name, np.float32)),
                *(part[name] for part in parts if len(part["rle"])),
            ]
        )
        for name, shape in shapes.items()
    }
    return MaskCandidates(
        hw=hw,
        crops=crops,
        floors=floors,
        rle=[rle for part in parts for rle in part["rle"]],
        **arrays,
    )


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
    """MaskCandidates of one crop, a batch of points at a time; the fields of `MaskCandidates` but for hw, crops and crop.

    Args:
      embedding: [1, h, w, D] of the crop, fitted to the canvas.
      grid: [N, 2], (x, y) in the unit square of the crop. hw: size of the whole picture.
      iou_floor: predicted IoUs must exceed it; stability_floor: stabilities must reach it.
      advance: told how many points were done.

    Empty masks, and those cut off by an edge of the crop, are left out.
    """
    weights = make_axis_weights(model, crop.size)
    at_a_time = int(
        np.clip(
            BYTES_AT_A_TIME // math.prod(size for axis in weights for size in axis.shape[:2]), 1, 64
        )
    )
    content = compute_fitted_size(crop.size, model.canvas)
    points = grid * np.array(crop.size[::-1])
    for start in range(0, len(points), points_per_batch):
        clicks = points[start : start + points_per_batch]
        asked = PromptSet(len(clicks), clicks[:, None], np.ones((len(clicks), 1), np.int32)).scaled(
            crop.size, content
        )
        prompts = stack_prompts(
            [asked], (1, min(round_up_count(len(clicks), PROMPT_COUNTS), points_per_batch)), slots=1
        )
        prompts = prompts.replace(boxes=None, has_box=None)  # no box, no tokens for one
        logits, iou = decode(model, variables, [embedding], prompts)
        iou = np.asarray(iou)[0, : len(clicks), 1:]
        wanted = np.argwhere(iou > iou_floor)
        found: dict[str, list] = {name: [] for name in ("rle", "box", "area", "stability", "index")}
        for first in range(0, len(wanted), at_a_time):
            index = wanted[first : first + at_a_time]
            padded = np.pad(index, ((0, at_a_time - len(index)), (0, 0)))
            measured = measure(logits, padded, *weights, np.float32(stability_offset))
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


def _collect(
    found: dict[str, list],
    measured: MaskMeasurements,
    index: np.ndarray,
    crop: Crop,
    hw: tuple[int, int],
    stability_floor: float,
) -> None:
    """Adds to `found` what was measured of the masks at `index`, but for those to be left out."""
    stability, boxes, areas = (
        np.asarray(values)[: len(index)]
        for values in (measured.stability, measured.boxes, measured.areas)
    )
    left, top = crop.box[:2]
    placed = boxes + np.array([left, top, left, top])
    kept = np.flatnonzero((stability >= stability_floor) & (areas > 0) & ~is_cut_off(placed, crop, hw))
    tiles = np.asarray(measured.tiles) if len(kept) else None
    for place in kept:
        x1, y1 = placed[place, :2]
        found["rle"].append(encode_mask_crop(extract_box(tiles[place], boxes[place]), (y1, x1), hw))
        found["box"].append(placed[place])
        found["area"].append(areas[place])
        found["stability"].append(stability[place])
        found["index"].append(index[place])
