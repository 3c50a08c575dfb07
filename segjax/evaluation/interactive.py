"""Interactive segmentation as RITM and SAM evaluate it: click, predict, click on the largest error.

Protocol (SAM, section 7.1 and appendix D.1; RITM's NoC evaluation, Sofiiuk et al. 2021):
  click 1  The pixel deepest inside the ground truth. The prediction is the most confident of the
           three masks, by predicted IoU.
  click k  The pixel deepest inside the larger error region of the current prediction. The
           prediction is the single-mask token's. The logits of the previous one are fed back.
A mask is logits > 0, upsampled bilinearly to the canvas and cut to the image. An object is finished
when there is nothing left to click: the prediction is correct, or every wrong pixel was clicked
before. It keeps its prediction. Unlike in RITM's published numbers, there is no flip averaging and
no zooming in.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from segjax.evaluation.interactive_rounds import play_rounds
from segjax.evaluation.interactive_scores import InteractiveScores

_play = jax.jit(play_rounds, static_argnames=("num_points", "mask_size", "num_recorded"))


def evaluate_interactive(
    encode: Callable,
    decode: Callable,
    batches: Iterable[Mapping[str, Any]],
    *,
    num_points: int = 9,
    mask_size: tuple[int, int] | None = None,
    num_recorded: int = 0,
    place: Callable[[dict], dict] | None = None,
) -> InteractiveScores:
    """Plays the protocol on every valid prompt of the batches.

    Pass both functions as `jax.tree_util.Partial(function, variables)`, with the same `function`
    each time, to evaluate repeatedly without compiling again: the variables are then arguments of
    the compiled program, not constants.

    Shapes: B images, P prompts, N clicks, S x S canvas pixels, h x w mask cells.

    Args:
      encode: (images uint8 [B, S, S, 3], size int32 [B, 2]) -> embedding, any pytree.
      decode: (embedding, points float32 [B, P, N, 2] in canvas pixels, labels int32 [B, P, N],
        mask_logits float32 [B, P, h, w], has_mask bool [B, P]) -> (logits [B, P, 4, h, w],
        iou [B, P, 4]). Index 0 is the single-mask token, 1..3 are the three masks.
      batches: dicts with "image" uint8 [B, S, S, 3], "size" int32 [B, 2] (height, width of the
        content), "masks" {0, 1} [B, P, S, S] (mask_stride 1), "valid" bool [B, P], and optionally
        "weight" float32 [B] (0 on placeholder rows). Pixels of masks that are -1 are ignored, as in
        RITM: they are never clicked and count in no IoU. Other keys are ignored. Each new shape
        compiles once.
      num_points: clicks per object, N, and the cap of NoC. RITM uses 20, SAM's curves end at 9.
      mask_size: (h, w) of the logits. Default: (S // 4, S // 4), SAM's with 16-pixel patches.
      num_recorded: images of the first batch whose rounds are recorded for
        `viz.draw_interaction_sheet`.
      place: puts a batch (a dict of the five arrays) on devices, for example sharded over images.
        Each process may pass its own rows. By default jit places it.

    Returns:
      Scores with one row per valid prompt whose ground truth is not empty.

    Raises:
      ValueError: No object to evaluate, masks not at canvas resolution, or outputs of `decode` of
        another shape.
    """
    encode, decode = _as_argument(encode), _as_argument(decode)
    tables, rounds, images, prompts = [], {}, 0, 0
    for batch in batches:
        batch = _check_batch(batch)
        size = mask_size or (batch["masks"].shape[-2] // 4, batch["masks"].shape[-1] // 4)
        batch = place(batch) if place else batch
        options = dict(num_points=num_points, mask_size=tuple(size), num_recorded=num_recorded)
        scores, recorded = _play(encode, decode, batch, **options)
        # Rows that count, of all processes
        scores = _to_host(scores)
        counted = scores.pop("counted")
        if num_recorded and not rounds:
            # Placeholders and images without objects would be black rows of a sheet
            played = counted[:num_recorded].any(axis=1)
            rounds = {name: rows[played] for name, rows in _to_host(recorded).items()}
        images, prompts = images + int(counted.any(axis=1).sum()), prompts + counted.size
        tables.append({name: value[counted] for name, value in scores.items()})
    if not sum(len(table["oracle_iou"]) for table in tables):
        raise ValueError(
            f"nothing to evaluate: {len(tables)} batches held {prompts} prompts and none of them "
            "is valid, in a row of positive weight, with a non-empty mask; is the split empty, or "
            "the iterator used up?"
        )
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return InteractiveScores(images=images, rounds=rounds, **columns)


def _as_argument(function: Callable) -> jax.tree_util.Partial:
    """Returns a function that jit takes as an argument."""
    # Wrapping a Partial again would hide its variables.
    if isinstance(function, jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


def _check_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays that the protocol reads, with weight 1 if there is none."""
    missing = [name for name in ("image", "size", "masks", "valid") if name not in batch]
    if missing:
        raise ValueError(f"an evaluation batch lacks {missing}; it has {sorted(batch)}")
    canvas, masks = tuple(batch["image"].shape[1:3]), tuple(batch["masks"].shape)
    if len(masks) != 4 or masks[2:] != canvas:
        raise ValueError(
            f"masks {masks} do not cover the canvas {canvas} pixel by pixel; expected [B, P, "
            f"{canvas[0]}, {canvas[1]}]: build evaluation examples with mask_stride=1"
        )
    weight = batch.get("weight", np.ones(masks[0], np.float32))
    return {name: batch[name] for name in ("image", "size", "masks", "valid")} | {"weight": weight}


def _to_host(tree: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Returns global arrays as NumPy, on each process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
