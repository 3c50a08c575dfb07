"""Simulated interactive rounds with small decoders of known output."""

import dataclasses
import functools

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from segjax.losses.promptable import PromptableLoss
from segjax.prompting.simulation import SAM2_ROUNDS, Rounds, Simulator

SIDE, LOSS_SIDE, STRIDE = 4, 8, 2  # mask grid, loss grid, canvas pixels per cell of the latter
CANVAS = LOSS_SIDE * STRIDE


def simulator(
    decode=None, rounds=None, prompts=3, size=(CANVAS, CANVAS), loss_fn=None, ground_truth=None
):
    if ground_truth is None:
        ground_truth = np.zeros((1, prompts, LOSS_SIDE, LOSS_SIDE), bool)
        ground_truth[:, :, 2:5, 1:6] = True
    size = np.array([size])
    content = np.zeros((1, 1, LOSS_SIDE, LOSS_SIDE), bool)
    content[..., : -(-size[0, 0] // STRIDE), : -(-size[0, 1] // STRIDE)] = True
    boxes = np.broadcast_to(np.array([2.0, 4, 12, 10], np.float32), (*ground_truth.shape[:2], 4))
    return Simulator(
        rounds=rounds or Rounds(),
        decode=decode,
        loss_fn=loss_fn or PromptableLoss(),
        ground_truth=jnp.asarray(ground_truth),
        boxes=jnp.asarray(boxes),
        content=jnp.asarray(content),
        size=jnp.asarray(size),
        stride=STRIDE,
    )


# First prompt and empty rounds


@functools.cache
def first_prompts(count=8000):
    make = lambda key: simulator(prompts=count).sample_first_prompt(key, (SIDE, SIDE))
    return jax.tree.map(np.asarray, jax.jit(make)(jax.random.key(0)))


def test_first_prompts_are_points_or_boxes_half_and_half():
    session = first_prompts()
    count = session.has_box.size
    assert abs(session.has_box.mean() - 0.5) < 4 * 0.5 / count**0.5
    assert session.labels.shape == (1, count, 11)
    np.testing.assert_array_equal(session.labels[..., 0], np.where(session.has_box, -1, 1))
    assert (session.labels[..., 1:] == -1).all() and (session.low_res == 0).all()


def test_first_points_are_uniform_over_the_object():
    session = first_prompts()
    x, y = session.points[0, ~session.has_box[0], 0].astype(int).T
    counts = np.zeros((CANVAS, CANVAS), int)
    np.add.at(counts, (y, x), 1)
    inside = np.zeros((CANVAS, CANVAS), bool)
    inside[4:10, 2:12] = True
    assert (counts[~inside] == 0).all()
    assert scipy.stats.chisquare(counts[inside]).pvalue > 0.001


def test_first_boxes_are_noisy_and_inside():
    session = first_prompts()
    shift = session.boxes[0] - np.array([2.0, 4, 12, 10])
    np.testing.assert_allclose(shift.std(0)[2:], [1, 0.6], rtol=0.05)  # a tenth of 10 x 6
    assert session.boxes.min() >= 0 and session.boxes.max() <= CANVAS


def test_clicks_stay_in_an_image_that_ends_within_a_cell():
    """13 of 16 columns belong to the image: the seventh cell of two pixels is half padding."""
    ground_truth = np.ones((1, 2000, LOSS_SIDE, LOSS_SIDE), bool)
    ground_truth[..., 7:] = False
    logits = np.full((1, 2000, SIDE, SIDE), -1, np.float32)
    play = simulator(size=(CANVAS, 13), ground_truth=ground_truth)

    @jax.jit
    def two_rounds(first_key, key):
        session = play.sample_first_prompt(first_key, (SIDE, SIDE))
        return session, play.add_click(
            key, session.replace(low_res=logits), 1, jnp.zeros((1, 2000), bool)
        )

    first, second = jax.device_get(two_rounds(jax.random.key(1), jax.random.key(2)))
    assert first.points[..., 0].max() == second.points[:, :, 1, 0].max() == 12
    assert (second.labels[:, :, 1] == 1).all()


def test_an_empty_object_gets_no_point():
    ground_truth = np.zeros((1, 50, LOSS_SIDE, LOSS_SIDE), bool)
    session = jax.jit(
        lambda key: simulator(ground_truth=ground_truth).sample_first_prompt(key, (SIDE, SIDE))
    )(jax.random.key(0))
    assert (np.asarray(session.labels) == -1).all()


def test_one_random_round_and_the_last_round_are_empty():
    """Eleven rounds: a first prompt, eight clicks, a random empty round, and an empty last one."""
    empty = np.asarray(jax.jit(simulator(prompts=4000).choose_empty_rounds)(jax.random.key(0)))[0]
    assert empty.shape == (4000, 11)
    assert (empty.sum(1) == 2).all() and not empty[:, 0].any() and empty[:, -1].all()
    assert scipy.stats.chisquare(empty[:, 1:10].sum(0)).pvalue > 0.001


@pytest.mark.parametrize(
    "options, indices, each",
    [
        (dict(empty_last=False), range(1, 11), 1),
        (dict(empty_random=False), [10], 1),
        (dict(empty_random=False, empty_last=False), [], 0),
        (dict(count=3), [1, 2], 2),
    ],
)
def test_empty_rounds_by_option(options, indices, each):
    empty = np.asarray(
        jax.jit(simulator(rounds=Rounds(**options), prompts=500).choose_empty_rounds)(
            jax.random.key(0)
        )
    )[0]
    assert (empty.sum(1) == each).all()
    assert np.flatnonzero(empty.any(0)).tolist() == list(indices)


def test_too_few_rounds():
    with pytest.raises(ValueError, match="2 rounds cannot hold.*at least 3"):
        Rounds(count=2)
    with pytest.raises(
        ValueError, match="rounds.when_perfect is 'never'; choose one of object, background"
    ):
        Rounds(when_perfect="never")


def test_settings_of_sam2():
    assert (SAM2_ROUNDS.count, SAM2_ROUNDS.empty_random, SAM2_ROUNDS.empty_last) == (
        8,
        False,
        False,
    )
    assert (SAM2_ROUNDS.box_noise, SAM2_ROUNDS.truth_rate, SAM2_ROUNDS.box_multimask) == (
        "uniform",
        0.1,
        False,
    )
    assert SAM2_ROUNDS.when_perfect == "background"


# A full session, recorded


class RecordingDecoder:
    """Decoder with random outputs that records sessions, outputs and the masks of the loss."""

    def __init__(self):
        self.sessions, self.outputs, self.scored = [], [], []

    def decode(self, context, session, feed_back):
        batch = session.labels.shape[:2]
        shapes = (
            jax.ShapeDtypeStruct((*batch, 4, SIDE, SIDE), jnp.float32),
            jax.ShapeDtypeStruct((*batch, 4), jnp.float32),
        )
        respond = functools.partial(self._respond, feed_back, shapes)
        return jax.experimental.io_callback(respond, shapes, session, ordered=True)

    def _respond(self, feed_back, shapes, session):
        rng = np.random.default_rng(len(self.sessions))
        self.sessions.append((jax.tree.map(np.asarray, session), feed_back))
        self.outputs.append(
            (rng.normal(size=shapes[0].shape).astype("f4"), rng.random(shapes[1].shape, np.float32))
        )
        return self.outputs[-1]

    def score(self, logits, iou, ground_truth):
        record = lambda *values: self.scored.append(tuple(map(np.asarray, values)))
        jax.experimental.io_callback(record, None, logits, iou, ordered=True)
        return PromptableLoss()(logits, iou, ground_truth)


def record(rounds, prompts=12):
    """Plays a session and returns its recorder and the terms of the first round."""
    recorder = RecordingDecoder()
    play = simulator(recorder.decode, rounds, prompts, loss_fn=recorder.score)
    first, _ = jax.jit(lambda key: play.play(key, None, (SIDE, SIDE)))(jax.random.key(5))
    jax.effects_barrier()
    return recorder, first


@pytest.fixture(scope="module")
def recorded():
    return record(Rounds())[0]


def test_a_session_is_one_plus_eight_plus_two_rounds(recorded):
    assert len(recorded.sessions) == 11
    assert [feed_back for _, feed_back in recorded.sessions] == [False] + [True] * 10
    final = recorded.sessions[-1][0]
    used = np.asarray(final.labels[0] != -1)
    # Eight corrections each, and a first point unless there was a box. The last round adds none.
    np.testing.assert_array_equal(used[:, 1:].sum(1), 8)
    np.testing.assert_array_equal(used[:, 0], ~np.asarray(final.has_box[0]))
    assert not used[:, -1].any()
    for index, (prompted, _) in enumerate(recorded.sessions):
        assert (prompted.labels[:, :, index + 1 :] == -1).all()  # no click comes early
        np.testing.assert_array_equal(
            prompted.labels[:, :, : index + 1], final.labels[:, :, : index + 1]
        )  # or goes away
        np.testing.assert_array_equal(
            prompted.points[:, :, : index + 1], final.points[:, :, : index + 1]
        )
        np.testing.assert_array_equal(prompted.boxes, final.boxes)


def test_three_masks_in_the_first_round_and_one_later(recorded):
    assert [logits.shape[2] for logits, _ in recorded.scored] == [3] + [1] * 10
    for round_index, (logits, iou) in enumerate(recorded.scored):
        all_logits, all_iou = recorded.outputs[round_index]
        masks = slice(1, 4) if round_index == 0 else slice(0, 1)
        np.testing.assert_array_equal(iou, all_iou[:, :, masks])
        assert logits.shape[-2:] == (LOSS_SIDE, LOSS_SIDE)


def test_the_mask_with_the_highest_predicted_iou_is_fed_back(recorded):
    logits, iou = recorded.outputs[0]
    chosen = 1 + np.asarray(iou[0, :, 1:]).argmax(-1)
    assert len(set(chosen)) == 3  # the draw covers all three
    np.testing.assert_array_equal(
        recorded.sessions[1][0].low_res[0], np.asarray(logits)[0, np.arange(12), chosen]
    )
    for index in range(2, 11):
        np.testing.assert_array_equal(
            recorded.sessions[index][0].low_res, recorded.outputs[index - 1][0][:, :, 0]
        )


def test_clicks_fall_into_the_error_region_of_the_fed_back_mask(recorded):
    play = simulator(prompts=12)
    for index in range(1, 11):
        prompted = recorded.sessions[index][0]
        wrong = np.asarray((play.upsample(prompted.low_res) > 0) != play.ground_truth)[0]
        for prompt in np.flatnonzero(prompted.labels[0, :, index] != -1):
            x, y = np.asarray(prompted.points[0, prompt, index], int) // STRIDE
            assert wrong[prompt, y, x]
            assert prompted.labels[0, prompt, index] == int(play.ground_truth[0, prompt, y, x])


def test_sam2_boxes_get_a_single_mask():
    rounds = dataclasses.replace(SAM2_ROUNDS, count=2)
    recorder, first = record(rounds)
    (logits, iou), (prompted, _) = recorder.outputs[0], recorder.sessions[1]
    has_box = np.asarray(prompted.has_box[0])
    assert has_box.any() and not has_box.all()
    chosen = np.where(has_box, 0, 1 + np.asarray(iou[0, :, 1:]).argmax(-1))
    np.testing.assert_array_equal(prompted.low_res[0], np.asarray(logits)[0, np.arange(12), chosen])
    assert [scored.shape[2] for scored, _ in recorder.scored] == [3, 1, 1]

    loss = jax.jit(PromptableLoss())
    ground_truth = simulator(prompts=12).ground_truth
    three, single = (
        np.asarray(loss(logits, iou, ground_truth)["loss"]) for logits, iou in recorder.scored[:2]
    )
    np.testing.assert_allclose(first["loss"], np.where(has_box, single, three), rtol=1e-5)


# Gradients


def bump(session, extent):
    """Returns a map that rises around foreground points and falls around background points."""
    cells = (jnp.arange(SIDE) + 0.5) * extent / SIDE
    near = jnp.exp(-((session.points[..., None] - cells) ** 2) / 8)  # [B, P, R, (x, y), cell]
    sign = jnp.where(session.labels == 1, 1.0, jnp.where(session.labels == 0, -1.0, 0.0))
    points = jnp.einsum("bpr,bpry,bprx->bpyx", sign, near[..., 1, :], near[..., 0, :])
    return points + 0.5 * session.has_box[..., None, None]


def toy_decode(context, session, feed_back):
    """Decodes with an output that depends on weights, prompts, and the fed-back mask."""
    back = jnp.tanh(session.low_res) if feed_back else 0.0
    field = jnp.tanh(context["gain"] * bump(session, CANVAS) + context["back"] * back)
    logits = context["base"] + context["scale"][:, None, None] * field[:, :, None]
    return logits, context["iou"] + jnp.tanh(logits).mean((-2, -1))


CONTEXT = dict(
    gain=jnp.float32(2.0),
    back=jnp.float32(0.7),
    base=0.5 * jax.random.normal(jax.random.key(0), (4, SIDE, SIDE)),
    scale=jnp.array([1.0, 2.0, 0.5, -1.0]),
    iou=jnp.array([0.1, 0.2, 0.3, 0.4]),
)
FIVE = Rounds(count=5)


def total(context, sampled_round, rounds):
    play = simulator(toy_decode, rounds)
    first, later = play.play(jax.random.key(9), context, (SIDE, SIDE), sampled_round)
    return (first["loss"] + later["loss"]).sum()


@functools.cache
def jit_loss(rounds):
    """Jits the function (context, sampled round) -> loss and gradient."""
    return jax.jit(jax.value_and_grad(functools.partial(total, rounds=rounds)))


@pytest.fixture(scope="module")
def full():
    return jit_loss(FIVE)(CONTEXT, None)


def test_scan_is_the_sum_of_its_rounds(full):
    """Compares with a Python loop over the rounds."""
    play = simulator(toy_decode, FIVE)
    first_key, empty_key, round_key, _ = jax.random.split(jax.random.key(9), 4)

    @jax.jit
    def loop(context):
        session, terms = play.run_first_round(
            context, play.sample_first_prompt(first_key, (SIDE, SIDE))
        )
        losses = [terms["loss"]]
        empty = play.choose_empty_rounds(empty_key)
        for index in range(1, 5):
            session = play.add_click(
                jax.random.fold_in(round_key, index), session, index, empty[:, :, index]
            )
            session, terms = play.run_later_round(context, session)
            losses.append(terms["loss"])
        return sum(loss.sum() for loss in losses)

    np.testing.assert_allclose(loop(CONTEXT), full[0], rtol=1e-6)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


def test_sampled_rounds_average_to_the_full_loss_and_gradient(full):
    sampled = jit_loss(dataclasses.replace(FIVE, sampled=True))
    each = [sampled(CONTEXT, jnp.int32(index)) for index in range(1, 5)]
    close(jax.tree.map(lambda *values: sum(values) / 4, *each), full)
    losses = {round(float(value), 4) for value, _ in each}
    assert len(losses) == 4  # the rounds do differ


@pytest.mark.parametrize("sampled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_recomputing_rounds_changes_nothing(full, sampled):
    options = dataclasses.replace(FIVE, sampled=sampled)
    choice = jnp.int32(3) if sampled else None
    expected = jit_loss(options)(CONTEXT, choice) if sampled else full
    close(jit_loss(dataclasses.replace(options, remat=True))(CONTEXT, choice), expected)


def current_round(session):
    """Returns the index of the current round [B, P], if every round adds a click."""
    return jnp.max(
        jnp.where(session.labels != -1, jnp.arange(session.labels.shape[-1]), 0), axis=-1
    )


def test_sampled_rounds_are_drawn_uniformly():
    """The decoder returns the index of the round, so the loss shows the sampled one."""
    rounds = Rounds(count=5, empty_random=False, empty_last=False, sampled=True)

    def decode(context, session, feed_back):
        iou = jnp.broadcast_to(1.0 + current_round(session)[..., None], (1, 1, 4))
        return jnp.zeros((1, 1, 4, SIDE, SIDE)), iou

    play = simulator(
        decode, rounds, 1, loss_fn=lambda logits, iou, ground_truth: {"loss": iou.mean(-1)}
    )
    later = jax.jit(jax.vmap(lambda key: play.play(key, None, (SIDE, SIDE))[1]["loss"].sum()))
    drawn = np.asarray(later(jax.random.split(jax.random.key(0), 2000))) / 4 - 1
    assert set(drawn) == {1, 2, 3, 4}
    assert scipy.stats.chisquare(np.unique(drawn, return_counts=True)[1]).pvalue > 0.001


def test_corrections_are_weighted_and_a_single_round_is_the_first(full):
    loss = jax.jit(total, static_argnums=(1, 2))
    first = loss(CONTEXT, None, Rounds(count=1, empty_random=False, empty_last=False))
    half = loss(CONTEXT, None, dataclasses.replace(FIVE, correction_weight=0.5))
    np.testing.assert_allclose(half, first + 0.5 * (full[0] - first), rtol=1e-5)
    assert full[0] > first


@pytest.mark.parametrize("sampled", [None, 2])
def test_fed_back_logits_carry_no_gradient(sampled):
    """Each output is a weight plus the fed-back mask. A leak would count earlier weights again."""
    count = 4

    def decode(context, session, feed_back):
        own = context[current_round(session)][..., None]
        back = session.low_res[:, :, None] if feed_back else jnp.zeros((1, 3, 4, SIDE, SIDE))
        return own[..., None, None] + back, jnp.broadcast_to(own, (1, 3, 4))

    score = lambda logits, iou, ground_truth: {"loss": logits.mean((-3, -2, -1))}
    rounds = Rounds(count=count, empty_random=False, empty_last=False, sampled=sampled is not None)

    def total(context):
        play = simulator(decode, rounds, loss_fn=score)
        first, later = play.play(jax.random.key(0), context, (SIDE, SIDE), sampled)
        return (first["loss"] + later["loss"]).sum()

    gradient = jax.jit(jax.grad(total))(jnp.arange(1.0, 5.0))
    # Three prompts, each round once. A sampled round stands for all three later ones, and the
    # rounds before it count 0.
    expected = [3] * 4 if sampled is None else [3, 0, 9, 0]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
