"""Masks for any numbers of prompts on any number of pictures, in few calls of the decoder and of few shapes.

A call of the decoder has R rows of P slots. The slots of a row are for prompts on one picture, and a picture may have
several rows, so pictures with many and with few prompts share a call and little of it is padding.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from segjax.inference.sam.jitted import decode
from segjax.inference.sam.postprocess import rounded_weights, to_image
from segjax.inference.sam.prompts import PROMPT_COUNTS, Asked, padded_count, point_slots, stacked
from segjax.models.sam.sam import Sam

ROW_COUNTS = (1, 4, 16, 64)
# Slots that cost as much as what is computed once for all prompts of a row: .36 of 2.16 GFLOP with the published
# decoder, as XLA counts them.
_ROW_COST = 0.17

Answer = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # masks [P, M, H, W], iou [P, M], low_res [P, M, 4h, 4w]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A picture that was encoded.

    Attributes:
      features: [1, h, w, D]. original_size: (H, W) of the picture. input_size: (h', w') of its content on the canvas.
    """

    features: jax.Array
    original_size: tuple[int, int]
    input_size: tuple[int, int]


class _Row(NamedTuple):
    """Prompts of the picture `which` from the place `start` on, `asked`."""

    which: int
    start: int
    asked: Asked


def answers(
    model: Sam,
    variables: Mapping[str, Any],
    pictures: Sequence[Embedded],
    asked: Sequence[Asked],
    *,
    multimask: bool,
    return_logits: bool,
    prompts_per_batch: int,
) -> list[Answer]:
    """What the model says to each picture's prompts.

    Args:
      pictures, asked: one a picture; the prompts are on the canvas.
      multimask: three masks a prompt (M = 3), else one. return_logits: masks as float32 logits, not bool.
      prompts_per_batch: slots of a call of the decoder, at most.

    Returns:
      For each picture masks [P, M, H, W], iou float32 [P, M] and low_res float32 [P, M, 4h, 4w].
    """
    cells, readings = (model.mask_side,) * 2, 3 if multimask else 1
    found = [
        _room(picture, a.count, readings, cells, return_logits)
        for picture, a in zip(pictures, asked, strict=True)
    ]
    rows_per_call, width = call_shape([a.count for a in asked], prompts_per_batch)
    rows = [
        _Row(which, start, a.part(start, width))
        for which, a in enumerate(asked)
        for start in range(0, a.count, width)
    ]
    slots = point_slots(asked)
    any_mask = any(a.masks is not None for a in asked)
    for first in range(0, len(rows), rows_per_call):
        batch = rows[first : first + rows_per_call]
        prompts = stacked(
            [row.asked for row in batch], (rows_per_call, width), slots, cells if any_mask else None
        )
        features = [pictures[row.which].features for row in batch]
        features += features[-1:] * (rows_per_call - len(batch))
        logits, iou = decode(model, variables, features, prompts)
        _take_masks(model, logits, batch, pictures, found, return_logits)
        iou = np.asarray(iou)[..., slice(1, None) if multimask else slice(1)]
        for number, row in enumerate(batch):
            found[row.which][1][row.start : row.start + width] = iou[number, : row.asked.count]
    return found


def call_shape(counts: Sequence[int], slots: int) -> tuple[int, int]:
    """(R, P) of the decoder's calls for pictures with so many prompts each: the shape that computes least in all.

    Args:
      counts: prompts of each picture. slots: R x P is at most that.
    """

    def shape_of(width: int) -> tuple[int, int]:
        rows = max(sum(-(-count // width) for count in counts), 1)
        return min(padded_count(rows, ROW_COUNTS), slots // width), rows

    def cost(width: int) -> float:
        per_call, rows = shape_of(width)
        return -(-rows // per_call) * per_call * (width + _ROW_COST)

    width = min((width for width in PROMPT_COUNTS if width <= slots), key=cost)
    return shape_of(width)[0], width


def _room(
    picture: Embedded, count: int, readings: int, cells: tuple[int, int], logits: bool
) -> Answer:
    """Room for the answers to `count` prompts: made once, for full-size masks of many are large."""
    masks = np.empty((count, readings, *picture.original_size), np.float32 if logits else bool)
    return (
        masks,
        np.empty((count, readings), np.float32),
        np.empty((count, readings, *cells), np.float32),
    )


def _take_masks(
    model: Sam,
    logits: jax.Array,
    batch: Sequence[_Row],
    pictures: Sequence[Embedded],
    found: list[Answer],
    return_logits: bool,
) -> None:
    """Fills in the masks of a call's prompts, one prompt after another."""

    def on_the_device() -> Iterator[tuple[Answer, int, tuple[jax.Array, jax.Array]]]:
        for number, row in enumerate(batch):
            picture, answer = pictures[row.which], found[row.which]
            weights = [
                rounded_weights(model.mask_side, model.canvas, content, original)
                for content, original in zip(picture.input_size, picture.original_size, strict=True)
            ]
            options = dict(multimask=answer[1].shape[1] == 3, return_logits=return_logits)
            for place in range(row.asked.count):
                yield (
                    answer,
                    row.start + place,
                    to_image(logits, number, place, *weights, **options),
                )

    for (masks, _, low_res), place, made in one_ahead(on_the_device()):
        full, small = jax.device_get(made)
        height, width = masks.shape[2:]
        masks[place], low_res[place] = full[:, :height, :width], small


def one_ahead(values: Iterable[T]) -> Iterator[T]:
    """The same values, each begun while the one before is dealt with: the device computes as the host copies."""
    values = iter(values)
    waiting = next(values, None)
    while waiting is not None:
        following = next(values, None)
        yield waiting
        waiting = following
