"""The interactive protocol on one batch: one scan over the clicks, compiled as a whole.

Shapes: B images, P prompts, N clicks, S x S canvas pixels, h x w mask cells.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from segjax.ops.distance_transform import choose_center_click
from segjax.ops.masks import make_content_mask, mask_iou
from segjax.ops.resize import resize_bilinear

# Canvas pixels of the masks whose distance transforms are computed together: a few megabytes.
_PIXELS_AT_A_TIME = 2**18


class _Rounds(NamedTuple):
    """State between two clicks."""

    points: jax.Array  # float32 [B, P, N, 2], canvas pixels
    labels: jax.Array  # int32 [B, P, N], -1 for clicks to come
    prediction: jax.Array  # bool [B, P, S, S]
    logits: jax.Array  # float32 [B, P, h, w] of the prediction, fed back
    predicted_iou: jax.Array  # float32 [B, P], of the prediction
    first_masks: jax.Array  # float32 [B, P, 3, h, w], logits after the first click, for the oracle


def play_rounds(
    encode: Callable,
    decode: Callable,
    batch: Mapping[str, jax.Array],
    *,
    num_points: int,
    mask_size: tuple[int, int],
    num_recorded: int = 0,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Plays the protocol on one batch. A pure function.

    Args:
      encode: as for `evaluate_interactive`.
      decode: as for `evaluate_interactive`.
      batch: the five arrays "image", "size", "masks", "valid" and "weight".
      num_points: clicks per object, N.
      mask_size: (h, w) of the logits.
      num_recorded: number K of leading images whose rounds are recorded.

    Returns:
      scores: "iou" and "predicted_iou" [B, P, N], "oracle_iou" and "area_fraction" [B, P], see
        `InteractiveScores`, and "counted" bool [B, P], the prompts that count.
      rounds: of the first counted prompt of each of the first K images, "image" uint8
        [K, S, S, 3], "size" [K, 2], "ground_truth" bool [K, S, S], "points" [K, N, 2], "labels"
        [K, N], "predictions" bool [K, N, S, S], "iou" [K, N]. Empty if K is 0.
    """
    # Ground truth inside the image content, without ignored pixels
    inside = make_content_mask(batch["size"], batch["masks"].shape[-2:])[:, None]
    inside = inside & (batch["masks"] >= 0)
    ground_truth = (batch["masks"] > 0) & inside
    area = jnp.sum(ground_truth, axis=(-2, -1), dtype=jnp.float32)
    counted = batch["valid"] & (area > 0) & (batch["weight"] > 0)[:, None]
    recorded = jnp.argmax(counted[:num_recorded], axis=1)

    def take_recorded(x):
        return jax.vmap(lambda row, prompt: row[prompt])(x[:num_recorded], recorded)

    def to_canvas(logits):
        return (resize_bilinear(logits, ground_truth.shape[-2:]) > 0) & inside

    # Image embedding, once
    embedding = encode(batch["image"], batch["size"])

    # Clicks
    def play_round(state, k):
        state = _click(decode, embedding, ground_truth, to_canvas, state, k)
        iou = mask_iou(state.prediction, ground_truth)
        prediction = take_recorded(state.prediction) if num_recorded else None
        return state, (iou, state.predicted_iou, prediction)

    state, (iou, predicted_iou, predictions) = lax.scan(
        play_round, _start(ground_truth, num_points, mask_size), jnp.arange(num_points)
    )

    # Scores
    oracle = jnp.stack(
        [mask_iou(to_canvas(state.first_masks[:, :, m]), ground_truth) for m in range(3)]
    )
    scores = {
        "iou": jnp.moveaxis(iou, 0, -1),
        "predicted_iou": jnp.moveaxis(predicted_iou, 0, -1),
        "oracle_iou": jnp.max(oracle, axis=0),
        "area_fraction": area / jnp.maximum(jnp.prod(batch["size"], axis=1), 1)[:, None],
        "counted": counted,
    }
    if not num_recorded:
        return scores, {}
    rounds = {
        "ground_truth": ground_truth,
        "points": state.points,
        "labels": state.labels,
        "iou": scores["iou"],
    }
    rounds = {name: take_recorded(value) for name, value in rounds.items()}
    rounds |= {"image": batch["image"][:num_recorded], "size": batch["size"][:num_recorded]}
    return scores, rounds | {"predictions": jnp.moveaxis(predictions, 0, 1)}


def _start(ground_truth: jax.Array, num_points: int, mask_size: tuple[int, int]) -> _Rounds:
    """Returns the state before the first click."""
    lead = ground_truth.shape[:2]
    return _Rounds(
        points=jnp.zeros((*lead, num_points, 2), jnp.float32),
        labels=jnp.full((*lead, num_points), -1, jnp.int32),
        # Empty, so that the first click falls in the center of the ground truth.
        prediction=jnp.zeros_like(ground_truth),
        logits=jnp.zeros((*lead, *mask_size), jnp.float32),
        predicted_iou=jnp.zeros(lead, jnp.float32),
        first_masks=jnp.zeros((*lead, 3, *mask_size), jnp.float32),
    )


def _click(decode, embedding, ground_truth, to_canvas, state: _Rounds, k: jax.Array) -> _Rounds:
    """Places click k (0 is the first), predicts, and selects the mask."""
    lead, mask_size = ground_truth.shape[:2], state.logits.shape[-2:]

    # Place the click and predict
    xy, label = _choose_click(ground_truth, state)
    points, labels = state.points.at[:, :, k].set(xy), state.labels.at[:, :, k].set(label)
    logits, iou = decode(embedding, points, labels, state.logits, jnp.broadcast_to(k > 0, lead))
    if logits.shape != (*lead, 4, *mask_size) or iou.shape != (*lead, 4):
        raise ValueError(
            f"decode returned logits {logits.shape} and IoUs {iou.shape}; expected "
            f"{(*lead, 4, *mask_size)} and {(*lead, 4)} ([B, P, 4, h, w] and [B, P, 4]). If only h "
            f"and w differ, pass mask_size={logits.shape[-2:]}"
        )
    logits, iou = logits.astype(jnp.float32), iou.astype(jnp.float32)

    # Select the most confident of three masks after the first click, later the single mask
    choice = jnp.where(k == 0, 1 + jnp.argmax(iou[:, :, 1:], axis=2), 0)
    chosen, confidence = logits[:, :, 0], iou[:, :, 0]
    for m in (1, 2, 3):  # selects, which fuse, because a gather over masks is slow on CPUs
        chosen = jnp.where((choice == m)[:, :, None, None], logits[:, :, m], chosen)
        confidence = jnp.where(choice == m, iou[:, :, m], confidence)

    # Finished objects (label -1) keep their prediction.
    active = label >= 0
    return _Rounds(
        points=points,
        labels=labels,
        prediction=jnp.where(active[:, :, None, None], to_canvas(chosen), state.prediction),
        logits=jnp.where(active[:, :, None, None], chosen, state.logits),
        predicted_iou=jnp.where(active, confidence, state.predicted_iou),
        first_masks=jnp.where(k == 0, logits[:, :, 1:], state.first_masks),
    )


def _choose_click(ground_truth: jax.Array, state: _Rounds) -> tuple[jax.Array, jax.Array]:
    """Chooses the next click of every prompt, a group of prompts at a time.

    Groups bound the memory of the distance transforms and are faster on small caches. The images,
    over which batches are sharded, stay together.

    Returns:
      xy: float32 [B, P, 2] in canvas pixels.
      label: int32 [B, P], -1 for finished objects.
    """
    images, prompts, *canvas = ground_truth.shape
    fitting = [
        n
        for n in range(1, prompts + 1)
        if prompts % n == 0 and n * ground_truth[:, 0].size <= _PIXELS_AT_A_TIME
    ]
    together = max(fitting, default=1)

    def split(x):
        return jnp.moveaxis(x.reshape(images, prompts // together, together, *x.shape[2:]), 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(images, prompts, *x.shape[3:])

    def choose(group):
        ground_truth, prediction, points, labels = group
        return choose_center_click(ground_truth, prediction, _mark_clicks(points, labels, canvas))

    groups = (ground_truth, state.prediction, state.points, state.labels)
    return jax.tree.map(join, lax.map(choose, jax.tree.map(split, groups)))


def _mark_clicks(points: jax.Array, labels: jax.Array, canvas: Sequence[int]) -> jax.Array:
    """Returns the clicked pixels, bool [B, P, H, W].

    Args:
      points: float32 [B, P, N, 2] in canvas pixels.
      labels: int32 [B, P, N], -1 for padding.
      canvas: (H, W).
    """
    index = points.astype(jnp.int32)
    in_column = index[..., 0, None] == jnp.arange(canvas[1])  # [B, P, N, W]
    in_row = (index[..., 1, None] == jnp.arange(canvas[0])) & (labels >= 0)[..., None]
    return jnp.any(in_row[..., :, None] & in_column[..., None, :], axis=2)
