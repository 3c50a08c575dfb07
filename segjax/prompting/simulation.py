"""The simulated annotator: a first prompt, then corrections, each answered by the model (SAM, appendix A).

Round 1 shows a point or a box and is answered by three masks. Every later round shows all prompts so far, the logits
of the mask that the model trusted most, and one more click where that mask was wrong, and is answered by the single
mask. Two rounds bring no click, so that the model also learns to refine what it has. Fed-back logits carry no
gradient, nor do clicks: rounds are tied together by the weights alone.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from segjax.ops.resize import resize_bilinear
from segjax.prompting.sampling import (
    FOREGROUND,
    PADDING,
    WHEN_PERFECT,
    correction,
    noisy_box,
    point_in,
)


@dataclasses.dataclass(frozen=True)
class Rounds:
    """What a simulated session looks like; the defaults are the SAM paper's.

    Attributes:
      count: rounds in all, the first included.
      empty_random, empty_last: one round without a click at a random place, one at the end.
      box_rate: probability that the first prompt is a box rather than a point.
      box_noise, box_noise_cap: see `noisy_box`. (sam2: "uniform".)
      box_multimask: a box, too, is answered by three masks. (sam2: False; the paper does not say.)
      truth_rate: probability that a correction falls into the object, not into the error. (sam2: 0.1.)
      when_perfect: where the click falls when nothing is left to correct: "object" or "background". (sam2: background;
        the paper does not say.)
      correction_weight: factor on the loss of every round but the first.
      sampled: compute loss and gradient on the first and on one random later round, weighted by the number of rounds it
        stands for; the rounds before it run forward only. The expected gradient is that of all rounds, at a fraction
        of the cost.
      remat: recompute each round in the backward pass instead of keeping its activations.
    """

    count: int = 11
    empty_random: bool = True
    empty_last: bool = True
    box_rate: float = 0.5
    box_noise: str = "normal"
    box_noise_cap: float = 20.0
    box_multimask: bool = True
    truth_rate: float = 0.0
    when_perfect: str = "object"
    correction_weight: float = 1.0
    sampled: bool = False
    remat: bool = False

    def __post_init__(self) -> None:
        if self.when_perfect not in WHEN_PERFECT:
            raise ValueError(
                f"rounds.when_perfect is {self.when_perfect!r}; choose one of {', '.join(WHEN_PERFECT)}"
            )
        needed = 1 + self.empty_random + self.empty_last
        if self.count < needed:
            raise ValueError(
                f"{self.count} rounds cannot hold a first prompt and the empty rounds; need at least {needed}"
            )


SAM2_ROUNDS = Rounds(
    count=8,
    empty_random=False,
    empty_last=False,
    box_noise="uniform",
    box_multimask=False,
    truth_rate=0.1,
    when_perfect="background",
)


@flax.struct.dataclass
class Session:
    """Where each of the B x P sessions stands: prompts so far and the mask to correct.

    points float32 [B, P, R, 2] canvas pixels, labels int32 [B, P, R] (slot r is round r's click), boxes float32
    [B, P, 4], has_box bool [B, P], low_res float32 [B, P, 4h, 4w] logits of the last answer.
    """

    points: jax.Array
    labels: jax.Array
    boxes: jax.Array
    has_box: jax.Array
    low_res: jax.Array


Decode = Callable[[Any, Session, bool], tuple[jax.Array, jax.Array]]
Score = Callable[[jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Simulator:
    """Plays `rounds` against a decoder.

    Attributes:
      decode: (context, session, fed_back) -> logits [B, P, 4, 4h, 4w], iou [B, P, 4]. `context` is whatever gradients
        flow into (variables, image embedding); with `fed_back` the session's low_res is a mask prompt.
      score: (logits [B, P, M, H, W] on the loss grid, iou [B, P, M], truth) -> dict of [B, P], with "loss".
      truth: bool [B, P, H, W] on the loss grid; boxes: float32 [B, P, 4], canvas pixels; content: bool [B, 1, H, W],
        the picture within the canvas; size: int [B, 2]; stride: canvas pixels per cell of the loss grid.
    """

    rounds: Rounds
    decode: Decode
    score: Score
    truth: jax.Array
    boxes: jax.Array
    content: jax.Array
    size: jax.Array
    stride: int

    def first_prompt(self, key: jax.Array, low_res_shape: tuple[int, int]) -> Session:
        """A point uniformly inside the object, or its box drawn carelessly."""
        kind_key, point_key, box_key = jax.random.split(key, 3)
        batch = self.truth.shape[:2]
        point, found = point_in(point_key, self.truth, self.stride)
        has_box = jax.random.bernoulli(kind_key, self.rounds.box_rate, batch)
        label = jnp.where(found & ~has_box, FOREGROUND, PADDING)
        slots = jnp.arange(self.rounds.count) == 0
        return Session(
            points=jnp.where(slots[:, None], self.inside(point)[:, :, None], 0.0),
            labels=jnp.where(slots, label[..., None], PADDING).astype(jnp.int32),
            boxes=noisy_box(
                box_key,
                self.boxes,
                self.size[:, None],
                self.rounds.box_noise,
                self.rounds.box_noise_cap,
            ),
            has_box=has_box,
            low_res=jnp.zeros((*batch, *low_res_shape)),
        )

    def inside(self, points: jax.Array) -> jax.Array:
        """Points [B, P, 2] within the picture: its last cells may reach into the padding."""
        return jnp.clip(points, 0, self.size[:, None, ::-1] - 1)

    def empty_rounds(self, key: jax.Array) -> jax.Array:
        """Which rounds bring no click: bool [B, P, R]; each session has its own random one."""
        last = self.rounds.count - 1
        index = jnp.arange(self.rounds.count)
        empty = jnp.zeros((*self.truth.shape[:2], self.rounds.count), bool)
        if self.rounds.empty_last:
            empty |= index == last
        if self.rounds.empty_random:
            end = last - 1 if self.rounds.empty_last else last
            place = jax.random.randint(key, self.truth.shape[:2], 1, end + 1)
            empty |= index == place[..., None]
        return empty

    def upsampled(self, logits: jax.Array) -> jax.Array:
        """Logits of the mask grid on the loss grid."""
        return resize_bilinear(logits, self.truth.shape[-2:])

    def first_round(self, context: Any, session: Session) -> tuple[Session, dict[str, jax.Array]]:
        """Three masks for the first prompt; the one with the highest predicted IoU goes on."""
        logits, iou = self.decode(context, session, False)
        terms = self.score(self.upsampled(logits[:, :, 1:]), iou[:, :, 1:], self.truth)
        trusted = jnp.argmax(iou[:, :, 1:], axis=-1) + 1
        if not self.rounds.box_multimask:
            single = self.score(self.upsampled(logits[:, :, :1]), iou[:, :, :1], self.truth)
            terms = jax.tree.map(
                lambda one, three: jnp.where(session.has_box, one, three), single, terms
            )
            trusted = jnp.where(session.has_box, 0, trusted)
        low_res = jnp.take_along_axis(logits, trusted[..., None, None, None], axis=2)[:, :, 0]
        return session.replace(low_res=jax.lax.stop_gradient(low_res)), terms

    def prompted(
        self, key: jax.Array, session: Session, index: jax.Array, empty: jax.Array
    ) -> Session:
        """The session with round `index`'s click added where `empty` [B, P] is False."""
        prediction = self.upsampled(session.low_res) > 0
        point, label = correction(
            key,
            prediction,
            self.truth,
            self.content,
            self.stride,
            self.rounds.truth_rate,
            self.rounds.when_perfect,
        )
        point, label = self.inside(point), jnp.where(empty, PADDING, label)
        return session.replace(
            points=session.points.at[:, :, index].set(point),
            labels=session.labels.at[:, :, index].set(label),
        )

    def later_round(self, context: Any, session: Session) -> tuple[Session, dict[str, jax.Array]]:
        """One mask for all prompts so far, its predecessor fed back."""
        logits, iou = self.decode(context, session, True)
        terms = self.score(self.upsampled(logits[:, :, :1]), iou[:, :, :1], self.truth)
        return session.replace(low_res=jax.lax.stop_gradient(logits[:, :, 0])), terms

    def play(
        self,
        key: jax.Array,
        context: Any,
        low_res_shape: tuple[int, int],
        sampled_round: jax.Array | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Plays the session.

        Args:
          key: decides everything random.
          context: handed to `decode`; gradients flow into it.
          low_res_shape: (4h, 4w).
          sampled_round: with `rounds.sampled`, the later round (1 .. R-1) to compute instead of a random one.

        Returns:
          Terms of the first round and of the later ones, dicts of [B, P]; the latter summed over rounds (or one
          sampled round times the number it stands for), "loss" with `correction_weight`.
        """
        first_key, empty_key, round_key, sample_key = jax.random.split(key, 4)
        # Not in a loop, so the recomputation must be kept from being merged with the first computation.
        first_round = jax.checkpoint(self.first_round) if self.rounds.remat else self.first_round
        session, first = first_round(context, self.first_prompt(first_key, low_res_shape))
        empty = self.empty_rounds(empty_key)
        count = self.rounds.count

        def round_at(context, session, index):
            skip = jax.lax.dynamic_index_in_dim(empty, index, axis=2, keepdims=False)
            session = self.prompted(jax.random.fold_in(round_key, index), session, index, skip)
            return self.later_round(context, session)

        if self.rounds.remat:
            round_at = jax.checkpoint(round_at, prevent_cse=self.rounds.sampled)
        if count == 1:
            return first, jax.tree.map(jnp.zeros_like, first)
        if self.rounds.sampled:
            if sampled_round is None:
                sampled_round = jax.random.randint(sample_key, (), 1, count)
            frozen = jax.lax.stop_gradient((context, session))
            session = jax.lax.fori_loop(
                1, sampled_round, lambda i, session: round_at(frozen[0], session, i)[0], frozen[1]
            )
            _, terms = round_at(context, session, sampled_round)
            later = jax.tree.map(lambda x: x * (count - 1), terms)
        else:
            step = lambda session, index: round_at(context, session, index)
            _, terms = jax.lax.scan(step, session, jnp.arange(1, count))
            later = jax.tree.map(lambda x: x.sum(0), terms)
        return first, later | {"loss": later["loss"] * self.rounds.correction_weight}
