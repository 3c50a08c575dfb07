"""Simulates an annotator for training: interactive training rounds (SAM, appendix A).

In round 1 the model sees a point or a box and predicts three masks. In every later round it sees
all prompts so far, the logits of its most confident mask, and one more click in the error region of
that mask, and it predicts a single mask. Two rounds add no click, so that the model also learns to
refine its own mask. Neither the fed-back logits nor the clicks carry a gradient: rounds share
nothing but the weights.
"""

import dataclasses
import functools
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
    jitter_box,
    sample_correction,
    sample_point,
)


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Settings of the interactive training rounds. The defaults are those of the SAM paper.

    Attributes:
      count: Number of rounds, with the first.
      empty_random: Whether one random round adds no click.
      empty_last: Whether the last round adds no click.
      box_rate: Probability that the first prompt is a box, not a point.
      text_rate: Probability that the first prompt of an object with a vector of CLIP is this
        vector, not a point or a box (SAM, appendix D.5).
      box_noise: Noise of the box, see `jitter_box`. (SAM 2: "uniform", MedSAM: "outward".)
      box_noise_cap: Largest shift of a box coordinate, in pixels.
      box_multimask: Whether the model predicts three masks for a box too. (SAM 2: False. The paper
        does not say.)
      truth_rate: Probability that a click is sampled from the object, not from the error region.
        (SAM 2: 0.1.)
      when_perfect: Location of a click without an error region: "object" or "background". (SAM 2:
        "background". The paper does not say.)
      correction_weight: Factor on the loss of every round but the first.
      sampled: Whether loss and gradient are computed for the first and for one random later round
        only, weighted by the number of rounds it stands for. The rounds in between run forward
        only. The expected gradient is that of all rounds, at a fraction of the cost.
      remat: Whether each round is recomputed in the backward pass (gradient checkpointing).
    """

    count: int = 11
    empty_random: bool = True
    empty_last: bool = True
    box_rate: float = 0.5
    text_rate: float = 1.0
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
                f"rounds.when_perfect is {self.when_perfect!r}; choose one of "
                f"{', '.join(WHEN_PERFECT)}"
            )
        needed = 1 + self.empty_random + self.empty_last
        if self.count < needed:
            raise ValueError(
                f"{self.count} rounds cannot hold a first prompt and the empty rounds; need at "
                f"least {needed}"
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
    """State of B x P interactive sessions: the prompts so far and the mask to correct.

    Attributes:
      points: float32 [B, P, R, 2], (x, y) in canvas pixels. Slot r holds the click of round r.
      labels: int32 [B, P, R]: 1 foreground, 0 background, -1 padding.
      boxes: float32 [B, P, 4], x1 y1 x2 y2 in canvas pixels.
      has_box: bool [B, P], whether the first prompt is the box.
      low_res: float32 [B, P, 4h, 4w], logits of the last prediction.
      texts: float32 [B, P, E], vectors of CLIP. None: no text prompts.
      has_text: bool [B, P], whether the first prompt is the vector. None: no text prompts.
    """

    points: jax.Array
    labels: jax.Array
    boxes: jax.Array
    has_box: jax.Array
    low_res: jax.Array
    texts: jax.Array | None = None
    has_text: jax.Array | None = None


Decode = Callable[[Any, Session, bool], tuple[jax.Array, jax.Array]]
LossFn = Callable[[jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Simulator:
    """Simulated annotator that plays interactive training rounds against a mask decoder.

    Attributes:
      rounds: Settings.
      decode: Function (context, session, feed_back) -> logits [B, P, 4, 4h, 4w], IoU predictions
        [B, P, 4]. `context` holds everything that gradients flow into: variables and image
        embedding. If `feed_back`, the session's `low_res` is a mask prompt.
      loss_fn: Function (logits [B, P, M, H, W], IoU predictions [B, P, M], ground truth) -> dict of
        [B, P] with "loss".
      ground_truth: bool [B, P, H, W] on the loss grid.
      boxes: float32 [B, P, 4], x1 y1 x2 y2 in canvas pixels.
      content: bool [B, 1, H, W], True on the image, False on padding.
      size: int [B, 2], (height, width) of the image on the canvas, in pixels.
      stride: Canvas pixels per cell of the loss grid.
      texts: float32 [B, P, E], vectors of CLIP of the objects. None: no text prompts.
      has_text: bool [B, P], objects that have a vector. None: no text prompts.
    """

    rounds: Rounds
    decode: Decode
    loss_fn: LossFn
    ground_truth: jax.Array
    boxes: jax.Array
    content: jax.Array
    size: jax.Array
    stride: int
    texts: jax.Array | None = None
    has_text: jax.Array | None = None

    def play(
        self,
        key: jax.Array,
        context: Any,
        low_res_shape: tuple[int, int],
        sampled_round: jax.Array | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Plays all rounds and returns their loss terms.

        Args:
          key: Typed PRNG key that decides everything random.
          context: Passed to `decode`. Gradients flow into it.
          low_res_shape: (4h, 4w), shape of the decoder's masks.
          sampled_round: If `rounds.sampled`, the later round (1 .. R-1) to compute instead of a
            random one.

        Returns:
          (terms of the first round, terms of the later rounds), dicts of [B, P]. The latter are
          summed over rounds, or one sampled round times the number of rounds it stands for. Their
          "loss" includes `correction_weight`.
        """
        first_key, empty_key, round_key, sample_key = jax.random.split(key, 4)
        count = self.rounds.count

        # First round. It is not in a loop, so its recomputation must not be merged with it (CSE).
        run_first = self.run_first_round
        run_first = jax.checkpoint(run_first) if self.rounds.remat else run_first
        session, first = run_first(context, self.sample_first_prompt(first_key, low_res_shape))
        empty = self.choose_empty_rounds(empty_key)
        if count == 1:
            return first, jax.tree.map(jnp.zeros_like, first)

        def run_round(context, session, index):
            skip = jax.lax.dynamic_index_in_dim(empty, index, axis=2, keepdims=False)
            session = self.add_click(jax.random.fold_in(round_key, index), session, index, skip)
            return self.run_later_round(context, session)

        if self.rounds.remat:
            run_round = jax.checkpoint(run_round, prevent_cse=self.rounds.sampled)

        # One random later round with a gradient; those before it run forward only
        if self.rounds.sampled:
            if sampled_round is None:
                sampled_round = jax.random.randint(sample_key, (), 1, count)
            frozen = jax.lax.stop_gradient((context, session))
            session = jax.lax.fori_loop(
                1, sampled_round, lambda i, session: run_round(frozen[0], session, i)[0], frozen[1]
            )
            _, terms = run_round(context, session, sampled_round)
            later = jax.tree.map(lambda x: x * (count - 1), terms)
        # All later rounds
        else:
            indices = jnp.arange(1, count)
            _, terms = jax.lax.scan(functools.partial(run_round, context), session, indices)
            later = jax.tree.map(lambda x: x.sum(0), terms)
        return first, later | {"loss": later["loss"] * self.rounds.correction_weight}

    def sample_first_prompt(self, key: jax.Array, low_res_shape: tuple[int, int]) -> Session:
        """Starts a session with a uniform point in the object, its box plus noise, or its text."""
        kind_key, point_key, box_key = jax.random.split(key, 3)
        batch = self.ground_truth.shape[:2]
        point, exists = sample_point(point_key, self.ground_truth, self.stride)
        has_box = jax.random.bernoulli(kind_key, self.rounds.box_rate, batch)
        has_text = None
        if self.texts is not None:
            text_key = jax.random.fold_in(kind_key, 1)
            has_text = jax.random.bernoulli(text_key, self.rounds.text_rate, batch) & self.has_text
            has_box &= ~has_text
            exists &= ~has_text
        label = jnp.where(exists & ~has_box, FOREGROUND, PADDING)
        is_first = jnp.arange(self.rounds.count) == 0
        return Session(
            points=jnp.where(is_first[:, None], self.clip_to_image(point)[:, :, None], 0.0),
            labels=jnp.where(is_first, label[..., None], PADDING).astype(jnp.int32),
            boxes=jitter_box(
                box_key,
                self.boxes,
                self.size[:, None],
                self.rounds.box_noise,
                self.rounds.box_noise_cap,
            ),
            has_box=has_box,
            low_res=jnp.zeros((*batch, *low_res_shape)),
            texts=self.texts,
            has_text=has_text,
        )

    def choose_empty_rounds(self, key: jax.Array) -> jax.Array:
        """Returns bool [B, P, R], True for rounds without a click.

        Each session has its own random empty round.
        """
        last = self.rounds.count - 1
        index = jnp.arange(self.rounds.count)
        empty = jnp.zeros((*self.ground_truth.shape[:2], self.rounds.count), bool)
        if self.rounds.empty_last:
            empty |= index == last
        if self.rounds.empty_random:
            end = last - 1 if self.rounds.empty_last else last
            chosen = jax.random.randint(key, self.ground_truth.shape[:2], 1, end + 1)
            empty |= index == chosen[..., None]
        return empty

    def run_first_round(
        self, context: Any, session: Session
    ) -> tuple[Session, dict[str, jax.Array]]:
        """Predicts three masks for the first prompt, and feeds back the one with the highest IoU.

        The highest IoU prediction decides, not the ground truth.
        """
        # Masks 1 .. 3 are those of an ambiguous prompt, mask 0 is the single mask
        logits, iou = self.decode(context, session, False)
        terms = self.loss_fn(self.upsample(logits[:, :, 1:]), iou[:, :, 1:], self.ground_truth)
        chosen = jnp.argmax(iou[:, :, 1:], axis=-1) + 1
        if not self.rounds.box_multimask:
            # A box is rarely ambiguous: it gets the single mask
            single = self.loss_fn(self.upsample(logits[:, :, :1]), iou[:, :, :1], self.ground_truth)
            terms = jax.tree.map(
                lambda one, three: jnp.where(session.has_box, one, three), single, terms
            )
            chosen = jnp.where(session.has_box, 0, chosen)
        low_res = jnp.take_along_axis(logits, chosen[..., None, None, None], axis=2)[:, :, 0]
        return session.replace(low_res=jax.lax.stop_gradient(low_res)), terms

    def add_click(
        self, key: jax.Array, session: Session, index: jax.Array, empty: jax.Array
    ) -> Session:
        """Adds the click of round `index` to the sessions whose `empty` [B, P] is False."""
        # The error region is that of the mask which the model sees, on the loss grid
        prediction = self.upsample(session.low_res) > 0
        point, label = sample_correction(
            key,
            prediction,
            self.ground_truth,
            self.content,
            self.stride,
            self.rounds.truth_rate,
            self.rounds.when_perfect,
        )
        point, label = self.clip_to_image(point), jnp.where(empty, PADDING, label)
        return session.replace(
            points=session.points.at[:, :, index].set(point),
            labels=session.labels.at[:, :, index].set(label),
        )

    def run_later_round(
        self, context: Any, session: Session
    ) -> tuple[Session, dict[str, jax.Array]]:
        """Predicts one mask from all prompts so far and the mask of the previous round."""
        logits, iou = self.decode(context, session, True)
        terms = self.loss_fn(self.upsample(logits[:, :, :1]), iou[:, :, :1], self.ground_truth)
        return session.replace(low_res=jax.lax.stop_gradient(logits[:, :, 0])), terms

    def upsample(self, logits: jax.Array) -> jax.Array:
        """Resizes logits from the decoder's mask grid to the loss grid."""
        return resize_bilinear(logits, self.ground_truth.shape[-2:])

    def clip_to_image(self, points: jax.Array) -> jax.Array:
        """Clips points [B, P, 2] to the image, whose last cells may reach into the padding."""
        return jnp.clip(points, 0, self.size[:, None, ::-1] - 1)
