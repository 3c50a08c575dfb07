"""Batching of prompts: any number of prompts on any number of images, in few decoder calls.

A decoder call has R rows of P prompt slots. The slots of one row hold prompts on one image, and an
image may have several rows. Images with many and with few prompts therefore share a call with
little padding, and a few call shapes serve every request, so that few programs are compiled.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from segjax.inference.sam.jitted import decode_prompts
from segjax.inference.sam.postprocess import (
    BLOCK_COLUMNS,
    BLOCK_ROWS,
    resize_masks,
    select_masks,
    split_image_weights,
)
from segjax.inference.sam.prompts import (
    PROMPT_COUNTS,
    PromptSet,
    count_point_slots,
    round_up_count,
    stack_prompts,
)
from segjax.models.sam.sam import Sam

PROMPTS_PER_BATCH = 64
ROW_COUNTS = (1, 4, 16, 64)
# Cost of what is computed once per row, in units of one slot: 0.36 of 2.16 GFLOP with the published
# decoder, as XLA counts them.
_ROW_COST = 0.17

# masks [P, M, H, W], iou [P, M], low_res [P, M, 4h, 4w]
Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class EmbeddedImage:
    """Image embedding with the sizes that lead back to the image's pixels.

    Attributes:
      features: [1, h, w, D], the image embedding.
      original_size: (H, W) of the image, in pixels.
      input_size: (h', w') of the image's content on the canvas, in pixels.
    """

    features: jax.Array
    original_size: tuple[int, int]
    input_size: tuple[int, int]


class _Row(NamedTuple):
    """One row of a decoder call: `prompts` are those of image `image` from index `start` on."""

    image: int
    start: int
    prompts: PromptSet


def predict_masks(
    model: Sam,
    variables: Mapping[str, Any],
    images: Sequence[EmbeddedImage],
    prompts: Sequence[PromptSet],
    *,
    multimask: bool,
    return_logits: bool,
    prompts_per_batch: int = PROMPTS_PER_BATCH,
) -> list[Prediction]:
    """Predicts masks for the prompts of several images.

    Args:
      model: The SAM.
      variables: Its variables.
      images: The embedded images.
      prompts: One set per image, in canvas pixels.
      multimask: Return three masks per prompt (M = 3) instead of one.
      return_logits: Return masks as float32 logits instead of bool.
      prompts_per_batch: Maximum number of slots in one decoder call.

    Returns:
      For each image masks [P, M, H, W], iou float32 [P, M] and low_res float32 [P, M, 4h, 4w].
    """
    cells, masks_per_prompt = (model.mask_side,) * 2, 3 if multimask else 1
    predictions = [
        _allocate(image, prompt_set.count, masks_per_prompt, cells, return_logits)
        for image, prompt_set in zip(images, prompts, strict=True)
    ]
    # Split each image's prompts into rows of one width.
    rows_per_call, width = choose_call_shape([p.count for p in prompts], prompts_per_batch)
    rows = [
        _Row(image, start, prompt_set.select(start, width))
        for image, prompt_set in enumerate(prompts)
        for start in range(0, prompt_set.count, width)
    ]
    point_slots = count_point_slots(prompts)
    mask_grid = cells if any(p.masks is not None for p in prompts) else None
    text_width = model.text_width if any(p.texts is not None for p in prompts) else 0
    for first in range(0, len(rows), rows_per_call):
        batch = rows[first : first + rows_per_call]
        stacked = stack_prompts(
            [row.prompts for row in batch],
            (rows_per_call, width),
            point_slots,
            mask_grid,
            text_width,
        )
        features = [images[row.image].features for row in batch]
        features += features[-1:] * (rows_per_call - len(batch))
        logits, iou = decode_prompts(model, variables, features, stacked)
        # Copy masks and scores to the host.
        _fill_masks(model, logits, batch, images, predictions, return_logits)
        iou = np.asarray(iou)[..., slice(1, None) if multimask else slice(1)]
        for number, row in enumerate(batch):
            scores = predictions[row.image][1]
            scores[row.start : row.start + width] = iou[number, : row.prompts.count]
    return predictions


def choose_call_shape(counts: Sequence[int], slots: int) -> tuple[int, int]:
    """Chooses the shape (R, P) of decoder calls that computes least in total.

    Args:
      counts: Number of prompts of each image.
      slots: Maximum of R x P.

    Returns:
      Rows R and prompt slots P of every call.
    """

    def count_rows(width: int) -> tuple[int, int]:
        rows = max(sum(-(-count // width) for count in counts), 1)
        return min(round_up_count(rows, ROW_COUNTS), slots // width), rows

    def cost(width: int) -> float:
        per_call, rows = count_rows(width)
        return -(-rows // per_call) * per_call * (width + _ROW_COST)

    width = min((width for width in PROMPT_COUNTS if width <= slots), key=cost)
    return count_rows(width)[0], width


def _allocate(
    image: EmbeddedImage, count: int, masks_per_prompt: int, cells: tuple[int, int], logits: bool
) -> Prediction:
    """Allocates arrays for the prediction of `count` prompts, once: full-size masks are large."""
    mask_type = np.float32 if logits else bool
    return (
        np.empty((count, masks_per_prompt, *image.original_size), mask_type),
        np.empty((count, masks_per_prompt), np.float32),
        np.empty((count, masks_per_prompt, *cells), np.float32),
    )


def _fill_masks(
    model: Sam,
    logits: jax.Array,
    batch: Sequence[_Row],
    images: Sequence[EmbeddedImage],
    predictions: list[Prediction],
    return_logits: bool,
) -> None:
    """Writes the masks of one decoder call into `predictions`, prompt by prompt."""

    def resize_blocks() -> Iterator[tuple[np.ndarray, jax.Array]]:
        """Yields (array of the host, array of the device that belongs there)."""
        for number, row in enumerate(batch):
            (masks, _, low_res), image = predictions[row.image], images[row.image]
            down, across = (
                split_image_weights(model.mask_side, model.canvas, content, original, sizes)
                for content, original, sizes in zip(
                    image.input_size,
                    image.original_size,
                    (BLOCK_ROWS, BLOCK_COLUMNS),
                    strict=True,
                )
            )
            for slot in range(row.prompts.count):
                index = row.start + slot
                small = select_masks(logits, number, slot, multimask=masks.shape[1] == 3)
                yield low_res[index], small
                for top, bottom, rows in down:
                    for left, right, columns in across:
                        block = resize_masks(small, rows, columns, return_logits=return_logits)
                        yield masks[index, :, top:bottom, left:right], block

    # The device resizes the next block while the host copies this one.
    for target, block in iterate_one_ahead(resize_blocks()):
        target[:] = jax.device_get(block)[:, : target.shape[1], : target.shape[2]]


def iterate_one_ahead(values: Iterable[T]) -> Iterator[T]:
    """Yields the same values, but requests each before the previous one is used.

    JAX dispatches asynchronously, so the device computes a value while the host uses the previous.

    Args:
      values: An iterable whose items start work on the device.
    """
    values = iter(values)
    waiting = next(values, None)
    while waiting is not None:
        following = next(values, None)
        yield waiting
        waiting = following
