"""Interactive segmentation, measured as RITM and SAM do: click, predict, click where it is most wrong, predict again.

Protocol (SAM section 7.1 and appendix D.1; RITM's NoC evaluation, Sofiiuk et al. 2021):
  click 1  the pixel deepest inside the truth; the answer is the most confident, by predicted IoU, of the three masks;
  click k  the pixel deepest inside the larger error of the current answer; the answer is the single-mask token's; the
           logits of the previous answer are fed back.
A mask is logits > 0, upsampled bilinearly to the canvas and cut to the image. An object with nothing left to click (the
answer is right, or each wrong pixel was clicked before) is finished and keeps its answer.
Unlike RITM's published numbers there is no flip averaging and no zooming in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from segjax.evaluation.interactive_scores import InteractiveScores
from segjax.ops.distance_transform import center_click
from segjax.ops.masks import content_mask, mask_iou
from segjax.ops.resize import resize_bilinear

_PIXELS_AT_A_TIME = 2**18  # of the masks whose distances are taken together: a few megabytes


def evaluate_interactive(
    encode: Callable,
    decode: Callable,
    batches: Iterable[Mapping[str, Any]],
    *,
    num_points: int = 9,
    mask_size: tuple[int, int] | None = None,
    pictures: int = 0,
    place: Callable[[dict], dict] | None = None,
) -> InteractiveScores:
    """Plays the protocol on every valid prompt of the batches.

    To evaluate again and again without compiling again, pass both functions as
    `jax.tree_util.Partial(function, variables)` with the same `function` each time: the variables are then arguments of
    the compiled program, not constants of it.

    Args:
      encode: (images uint8 [B, S, S, 3], size int32 [B, 2]) -> embedding, any pytree.
      decode: (embedding, points float32 [B, P, N, 2] canvas px, labels int32 [B, P, N], mask_logits float32
        [B, P, h, w], has_mask bool [B, P]) -> (logits [B, P, 4, h, w], iou [B, P, 4]); index 0 is the single-mask
        token, 1..3 are the three masks.
      batches: dicts with image uint8 [B, S, S, 3], size int32 [B, 2] (h, w of the content), masks {0, 1}
        [B, P, S, S] (mask_stride 1), valid bool [B, P] and optionally weight float32 [B] (0 on placeholder rows);
        other keys are ignored. Each new shape compiles once.
      num_points: clicks per object, N; the cap of NoC (RITM uses 20; SAM's curves end at 9).
      mask_size: (h, w) of decode's logits; (S // 4, S // 4) by default, SAM's with 16-pixel patches.
      pictures: how many images of the first batch to keep with their rounds, for `viz.interaction_sheet`.
      place: puts a batch (a dict of the five arrays) on devices, for example sharded over images; each process may
        pass its own rows. By default jit places it.

    Returns:
      One row of scores per valid prompt whose truth is not empty.

    Raises:
      ValueError: no object to measure, masks not at canvas resolution, or decode's output of another shape.
    """
    encode, decode = _as_argument(encode), _as_argument(decode)
    tables, shown, images, prompts = [], {}, 0, 0
    for batch in batches:
        batch = _checked(batch)
        size = mask_size or (batch["masks"].shape[-2] // 4, batch["masks"].shape[-1] // 4)
        batch = place(batch) if place else batch
        played = _play(
            encode, decode, batch, num_points=num_points, mask_size=tuple(size), pictures=pictures
        )
        scores = _to_host(played[0])
        shown = shown or _to_host(played[1])
        counted = scores.pop("counted")
        images, prompts = images + int(counted.any(axis=1).sum()), prompts + counted.size
        tables.append({name: value[counted] for name, value in scores.items()})
    if not sum(len(table["oracle_iou"]) for table in tables):
        raise ValueError(
            f"nothing to evaluate: {len(tables)} batches held {prompts} prompts and none of them is valid, in a row of "
            "positive weight, with a non-empty mask; is the split empty, or the iterator used up?"
        )
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return InteractiveScores(images=images, pictures=shown, **columns)


class _Game(NamedTuple):
    """State between two clicks."""

    points: jax.Array  # [B, P, N, 2] canvas px
    labels: jax.Array  # [B, P, N], -1 where not clicked yet
    answer: jax.Array  # bool [B, P, S, S]
    logits: jax.Array  # [B, P, h, w] of the answer, fed back
    predicted: jax.Array  # [B, P], predicted IoU of the answer
    three: jax.Array  # [B, P, 3, h, w], the first click's three masks, for the oracle


def play_rounds(
    encode: Callable,
    decode: Callable,
    batch: Mapping[str, jax.Array],
    *,
    num_points: int,
    mask_size: tuple[int, int],
    pictures: int = 0,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The protocol on one batch: a pure function, one scan over the clicks. Arguments as `evaluate_interactive`.

    Returns:
      scores, named as in `InteractiveScores`: iou and predicted_iou [B, P, N], oracle_iou and area_fraction [B, P], and
        counted bool [B, P], the prompts that count.
      pictures, the first counted prompt of each of the first K images: image uint8 [K, S, S, 3], size [K, 2], truth
        bool [K, S, S], points [K, N, 2], labels [K, N], answers bool [K, N, S, S], iou [K, N]; empty if pictures is 0.
    """
    inside = content_mask(batch["size"], batch["masks"].shape[-2:])[:, None]
    truth = (batch["masks"] > 0) & inside
    area = jnp.sum(truth, axis=(-2, -1), dtype=jnp.float32)
    counted = batch["valid"] & (area > 0) & (batch["weight"] > 0)[:, None]
    shown = jnp.argmax(counted[:pictures], axis=1)

    def of_shown(x):
        return jax.vmap(lambda row, prompt: row[prompt])(x[:pictures], shown)

    def to_canvas(logits):
        return (resize_bilinear(logits, truth.shape[-2:]) > 0) & inside

    embedding = encode(batch["image"], batch["size"])

    def one_click(game, k):
        game = _click(decode, embedding, truth, to_canvas, game, k)
        iou = mask_iou(game.answer, truth)
        return game, (iou, game.predicted, of_shown(game.answer) if pictures else None)

    game, (iou, predicted, answers) = lax.scan(
        one_click, _start(truth, num_points, mask_size), jnp.arange(num_points)
    )
    oracle = jnp.stack([mask_iou(to_canvas(game.three[:, :, m]), truth) for m in range(3)])
    scores = {
        "iou": jnp.moveaxis(iou, 0, -1),
        "predicted_iou": jnp.moveaxis(predicted, 0, -1),
        "oracle_iou": jnp.max(oracle, axis=0),
        "area_fraction": area / jnp.maximum(jnp.prod(batch["size"], axis=1), 1)[:, None],
        "counted": counted,
    }
    if not pictures:
        return scores, {}
    rounds = {"truth": truth, "points": game.points, "labels": game.labels, "iou": scores["iou"]}
    rounds = {name: of_shown(value) for name, value in rounds.items()}
    kept = {"image": batch["image"][:pictures], "size": batch["size"][:pictures]}
    return scores, rounds | kept | {"answers": jnp.moveaxis(answers, 0, 1)}


_play = jax.jit(play_rounds, static_argnames=("num_points", "mask_size", "pictures"))


def _start(truth: jax.Array, num_points: int, mask_size: tuple[int, int]) -> _Game:
    lead = truth.shape[:2]
    return _Game(
        points=jnp.zeros((*lead, num_points, 2), jnp.float32),
        labels=jnp.full((*lead, num_points), -1, jnp.int32),
        answer=jnp.zeros_like(truth),  # empty, so the first click falls in the centre of the truth
        logits=jnp.zeros((*lead, *mask_size), jnp.float32),
        predicted=jnp.zeros(lead, jnp.float32),
        three=jnp.zeros((*lead, 3, *mask_size), jnp.float32),
    )


def _click(decode, embedding, truth, to_canvas, game: _Game, k: jax.Array) -> _Game:
    """Places click k (0 is the first), predicts, and picks the answer."""
    lead, mask_size = truth.shape[:2], game.logits.shape[-2:]
    xy, label = _next_click(truth, game)
    points, labels = game.points.at[:, :, k].set(xy), game.labels.at[:, :, k].set(label)
    logits, predicted = decode(
        embedding, points, labels, game.logits, jnp.broadcast_to(k > 0, lead)
    )
    if logits.shape != (*lead, 4, *mask_size) or predicted.shape != (*lead, 4):
        raise ValueError(
            f"decode returned logits {logits.shape} and IoUs {predicted.shape}; expected {(*lead, 4, *mask_size)} and "
            f"{(*lead, 4)} ([B, P, 4, h, w] and [B, P, 4]). If only h and w differ, pass mask_size={logits.shape[-2:]}"
        )
    logits, predicted = logits.astype(jnp.float32), predicted.astype(jnp.float32)
    choice = jnp.where(k == 0, 1 + jnp.argmax(predicted[:, :, 1:], axis=2), 0)
    chosen, confidence = logits[:, :, 0], predicted[:, :, 0]
    for m in (1, 2, 3):  # selects, which fuse; a gather over masks is slow on CPUs
        chosen = jnp.where((choice == m)[:, :, None, None], logits[:, :, m], chosen)
        confidence = jnp.where(choice == m, predicted[:, :, m], confidence)
    going = label >= 0
    return _Game(
        points=points,
        labels=labels,
        answer=jnp.where(going[:, :, None, None], to_canvas(chosen), game.answer),
        logits=jnp.where(going[:, :, None, None], chosen, game.logits),
        predicted=jnp.where(going, confidence, game.predicted),
        three=jnp.where(k == 0, logits[:, :, 1:], game.three),
    )


def _next_click(truth: jax.Array, game: _Game) -> tuple[jax.Array, jax.Array]:
    """`center_click` of every prompt, a group of prompts at a time: bounded memory, and faster where caches are small.

    The images, over which batches are sharded, stay together. Returns xy [B, P, 2] and label [B, P].
    """
    images, prompts, *canvas = truth.shape
    fitting = [
        n
        for n in range(1, prompts + 1)
        if prompts % n == 0 and n * truth[:, 0].size <= _PIXELS_AT_A_TIME
    ]
    together = max(fitting, default=1)

    def split(x):
        return jnp.moveaxis(x.reshape(images, prompts // together, together, *x.shape[2:]), 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(images, prompts, *x.shape[3:])

    def of_group(group):
        truth, answer, points, labels = group
        return center_click(truth, answer, _clicked(points, labels, canvas))

    groups = jax.tree.map(split, (truth, game.answer, game.points, game.labels))
    return jax.tree.map(join, lax.map(of_group, groups))


def _clicked(points: jax.Array, labels: jax.Array, canvas: Sequence[int]) -> jax.Array:
    """Pixels that carry a click, bool [B, P, H, W], of points [B, P, N, 2] with labels [B, P, N]."""
    index = points.astype(jnp.int32)
    in_column = index[..., 0, None] == jnp.arange(canvas[1])  # [B, P, N, W]
    in_row = (index[..., 1, None] == jnp.arange(canvas[0])) & (labels >= 0)[..., None]
    return jnp.any(in_row[..., :, None] & in_column[..., None, :], axis=2)


def _as_argument(function: Callable) -> jax.tree_util.Partial:
    """A function that jit takes as an argument. A Partial already is one; wrapping it would hide its variables."""
    return (
        function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)
    )


def _checked(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays the protocol reads, their shapes checked; weight 1 where absent."""
    missing = [name for name in ("image", "size", "masks", "valid") if name not in batch]
    if missing:
        raise ValueError(f"an evaluation batch lacks {missing}; it has {sorted(batch)}")
    canvas, masks = tuple(batch["image"].shape[1:3]), tuple(batch["masks"].shape)
    if len(masks) != 4 or masks[2:] != canvas:
        raise ValueError(
            f"masks {masks} do not cover the canvas {canvas} pixel by pixel; expected [B, P, {canvas[0]}, "
            f"{canvas[1]}]: build evaluation examples with mask_stride=1"
        )
    weight = batch.get("weight", np.ones(masks[0], np.float32))
    return {name: batch[name] for name in ("image", "size", "masks", "valid")} | {"weight": weight}


def _to_host(tree: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Whole arrays as NumPy on each process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)
