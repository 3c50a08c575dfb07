"""Candidate masks of automatic mask generation: every mask that a grid of clicks predicts.

Masks are measured at full size and stored as run lengths. Predicted IoUs are known before a mask is
resized, so masks below the threshold never are. The others are resized a few at a time. However
large the image, no full-size logits are stored, and masks take at most `BYTES_AT_A_TIME`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from segjax.images.transforms import compute_fitted_size
from segjax.inference.sam.crops import Crop, is_cut_off
from segjax.inference.sam.jitted import decode_prompts
from segjax.inference.sam.prompts import PROMPT_COUNTS, PromptSet, round_up_count, stack_prompts
from segjax.inference.sam.stability_score import (
    MaskMeasurements,
    extract_box,
    make_axis_weights,
    measure_masks,
)
from segjax.masks import encode_mask_crop
from segjax.models.sam.prompt_encoder import Prompts
from segjax.models.sam.sam import Sam

BYTES_AT_A_TIME = 2**26


@dataclasses.dataclass(frozen=True)
class MaskCandidates:
    """N candidate masks of one image, in the order of their crops and points.

    Attributes:
      hw: (height, width) of the image.
      crops: The crops of the image.
      rle: N masks of the image's size, as compressed run-length encodings.
      box: float32 [N, 4], first column, first row, last column, last row, in pixels of the image.
        Non-maximum suppression uses these, as segment-anything does.
      area: int64 [N], in pixels.
      predicted_iou: float32 [N], from the IoU prediction head.
      stability: float32 [N], the stability scores.
      point: float32 [N, 2], the click (x, y) in pixels of the image.
      crop: int [N], index into `crops`.
      floors: Predicted IoU that all of them exceed, and stability score that all of them reach.
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
        """Returns the candidates at the given indices, in that order."""
        arrays = ("box", "area", "predicted_iou", "stability", "point", "crop")
        chosen = {name: getattr(self, name)[index] for name in arrays}
        return dataclasses.replace(self, rle=[self.rle[i] for i in index], **chosen)


def join_candidates(
    hw: tuple[int, int], crops: list[Crop], parts: list[dict[str, Any]], floors: tuple[float, float]
) -> MaskCandidates:
    """Joins the candidates of all crops of an image.

    Args:
      hw: (height, width) of the image.
      crops: The crops of the image.
      parts: Dicts from `propose_masks`, each with the field `crop` added.
      floors: See `MaskCandidates`.
    """
    # The empty arrays set shape and type if no part has a mask.
    shapes = dict(box=(4,), area=(), predicted_iou=(), stability=(), point=(2,), crop=())
    types = dict(area=np.int64, crop=np.int64)
    arrays = {
        name: np.concatenate(
            [
                np.zeros((0, *shape), types.get(name, np.float32)),
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


def propose_masks(
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
    """Yields the candidate masks of one crop, a batch of points at a time.

    Empty masks are left out, and so are masks that an edge of the crop cuts off.

    Args:
      model: The SAM.
      variables: Its variables.
      embedding: [1, h, w, D], image embedding of the crop.
      crop: The crop.
      grid: [N, 2], (x, y) of the clicks in the unit square of the crop.
      hw: (height, width) of the whole image.
      points_per_batch: Number of clicks that are decoded in one call.
      iou_floor: Predicted IoU that a mask must exceed.
      stability_floor: Stability score that a mask must reach.
      stability_offset: Offset of the stability score's thresholds, in logits.
      advance: Called with the number of clicks done after each batch.

    Yields:
      Dicts with the fields of `MaskCandidates`, except hw, crops, crop and floors.
    """
    weights = make_axis_weights(model, crop.size)
    bytes_per_mask = math.prod(size for axis in weights for size in axis.shape[:2])
    at_a_time = int(np.clip(BYTES_AT_A_TIME // bytes_per_mask, 1, 64))
    content = compute_fitted_size(crop.size, model.canvas)
    points = grid * np.array(crop.size[::-1])
    for start in range(0, len(points), points_per_batch):
        # Decode a batch of clicks.
        clicks = points[start : start + points_per_batch]
        prompts = _stack_clicks(clicks, crop.size, content, points_per_batch)
        logits, iou = decode_prompts(model, variables, [embedding], prompts)

        # Measure the masks whose predicted IoU is high enough.
        iou = np.asarray(iou)[0, : len(clicks), 1:]
        good = np.argwhere(iou > iou_floor)
        candidates: dict[str, list] = {
            name: [] for name in ("rle", "box", "area", "stability", "index")
        }
        for first in range(0, len(good), at_a_time):
            index = good[first : first + at_a_time]
            padded = np.pad(index, ((0, at_a_time - len(index)), (0, 0)))
            measurements = measure_masks(logits, padded, *weights, np.float32(stability_offset))
            _collect(candidates, measurements, index, crop, hw, stability_floor)
        index = np.array(candidates["index"], int).reshape(-1, 2)
        yield {
            "rle": candidates["rle"],
            "box": np.array(candidates["box"], np.float32).reshape(-1, 4),
            "area": np.array(candidates["area"], np.int64),
            "stability": np.array(candidates["stability"], np.float32),
            "predicted_iou": iou[index[:, 0], index[:, 1]],
            "point": (clicks[index[:, 0]] + crop.box[:2]).astype(np.float32),
        }
        advance(len(clicks))


def _stack_clicks(
    clicks: np.ndarray, crop_size: tuple[int, int], content: tuple[int, int], points_per_batch: int
) -> Prompts:
    """Returns one row of prompts, each a single click, scaled from the crop to the canvas."""
    labels = np.ones((len(clicks), 1), np.int32)
    prompts = PromptSet(len(clicks), clicks[:, None], labels).scale(crop_size, content)
    slots = min(round_up_count(len(clicks), PROMPT_COUNTS), points_per_batch)
    stacked = stack_prompts([prompts], (1, slots), point_slots=1)
    return stacked.replace(boxes=None, has_box=None)  # saves the tokens of absent boxes


def _collect(
    candidates: dict[str, list],
    measurements: MaskMeasurements,
    index: np.ndarray,
    crop: Crop,
    hw: tuple[int, int],
    stability_floor: float,
) -> None:
    """Appends the measured masks to `candidates`, except unstable, empty and cut-off ones."""
    # `index` has only real masks, and the measurements are padded.
    stability, boxes, areas = (
        np.asarray(values)[: len(index)]
        for values in (measurements.stability, measurements.boxes, measurements.areas)
    )
    left, top = crop.box[:2]
    image_boxes = boxes + np.array([left, top, left, top])
    good = (stability >= stability_floor) & (areas > 0) & ~is_cut_off(image_boxes, crop, hw)
    selected = np.flatnonzero(good)
    # Tiles are copied to the host only if a mask of them is selected.
    tiles = np.asarray(measurements.tiles) if len(selected) else None
    for i in selected:
        x1, y1 = image_boxes[i, :2]
        mask = extract_box(tiles[i], boxes[i])
        candidates["rle"].append(encode_mask_crop(mask, (y1, x1), hw))
        candidates["box"].append(image_boxes[i])
        candidates["area"].append(areas[i])
        candidates["stability"].append(stability[i])
        candidates["index"].append(index[i])
