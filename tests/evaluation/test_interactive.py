"""The interactive protocol against a NumPy/SciPy re-implementation, and against players whose scores are known."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.evaluation import interactive
from segjax.evaluation.interactive import evaluate_interactive, play_rounds
from segjax.evaluation.interactive_scores import (
    InteractiveScores,
    calibration_error,
    number_of_clicks,
)

CANVAS, CELLS = 48, 24


def random_batch(seed=0, images=3, prompts=4, canvas=CANVAS):
    noise = np.random.default_rng(seed).normal(size=(images, prompts, canvas, canvas))
    masks = (ndimage.gaussian_filter(noise, (0, 0, 4, 4)) > 0.02).astype(np.uint8)
    size = np.array([[canvas, canvas], [canvas - 14, canvas], [canvas, canvas - 9]], np.int32)[
        :images
    ]
    for image, (height, width) in enumerate(size):
        masks[image, :, height:] = 0
        masks[image, :, :, width:] = 0
    valid = np.ones((images, prompts), bool)
    valid[0, 2] = False
    return {
        "image": np.zeros((images, canvas, canvas, 3), np.uint8),
        "size": size,
        "masks": masks,
        "valid": valid,
        "weight": np.ones(images, np.float32),
        "boxes": np.zeros((images, prompts, 4), np.float32),
    }


def no_embedding(images, size):
    return jnp.zeros((images.shape[0], 1))


def perfect(truth):
    """A decoder that knows the truth at canvas resolution and shows it by the middle of its three masks alone."""
    logits = jnp.where(truth > 0, 4.0, -4.0)[:, :, None]

    def decode(embedding, points, labels, mask_logits, has_mask):
        wrong = jnp.full_like(logits, -4.0)
        single = jnp.where(has_mask[:, :, None, None, None], logits, wrong)
        iou = jnp.broadcast_to(jnp.array([0.9, 0.3, 0.8, 0.1]), (*logits.shape[:2], 4))
        return jnp.concatenate([single, wrong, logits, wrong], axis=2), iou

    return decode


def discs(xp, points, labels, mask_logits, has_mask):
    """A learner of sorts: foreground clicks add a disc to the fed-back mask, background clicks cut one out.

    In every token another radius, so that mixing up tokens shows; half-pixel slopes keep logits away from 0.
    """
    centres = (xp.arange(CELLS) + 0.5) * (CANVAS / CELLS) - 0.5
    radii = xp.asarray([7.0, 5.0, 9.0, 13.0])[:, None, None]
    dx = centres - points[..., 0, None, None, None]
    dy = centres[:, None] - points[..., 1, None, None, None]
    disc = radii + 0.137 - xp.sqrt(dx**2 + dy**2)  # [..., N, 4, h, w]
    labels = labels[..., None, None, None]
    positive = xp.where(labels == 1, disc, -9.0).max(axis=-4)
    negative = xp.where(labels == 0, -disc, 9.0).min(axis=-4)
    fed = xp.where(has_mask[..., None, None, None], 0.5 * mask_logits[..., None, :, :], -9.0)
    logits = xp.minimum(xp.maximum(positive, fed), negative)
    clicks = (labels >= 0).sum(axis=-4)[..., 0, 0, 0]
    iou = xp.stack(
        [0.05 * clicks, 0.2 + 0 * clicks, 0.7 - 0.01 * points[..., 0, 0], 0.4 + 0 * clicks], axis=-1
    )
    return logits, iou


def disc_decode(embedding, points, labels, mask_logits, has_mask):
    return discs(jnp, points, labels, mask_logits, has_mask)


def host_protocol(truth, size, num_points):
    """RITM's loop for one object, in NumPy and SciPy."""
    height, width = size
    shape = truth.shape
    points, labels = np.zeros((num_points, 2), np.float32), np.full(num_points, -1)
    answer, fed, clicked = (
        np.zeros(shape, bool),
        np.zeros((CELLS, CELLS), np.float32),
        np.zeros(shape, bool),
    )
    ious, oracle = [], None

    def canvas_mask(logits):
        up = np.asarray(jax.image.resize(logits, shape, "linear", antialias=False)) > 0
        up[height:], up[:, width:] = False, False
        return up

    def iou(mask):
        return (mask & truth).sum() / max((mask | truth).sum(), 1)

    def distance(mask):
        return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] * ~clicked

    for k in range(num_points):
        missed, covered = distance(truth & ~answer), distance(answer & ~truth)
        if max(missed.max(), covered.max()) > 0:
            deepest = missed if missed.max() > covered.max() else covered
            y, x = np.unravel_index(deepest.argmax(), shape)
            points[k], labels[k], clicked[y, x] = (x, y), int(missed.max() > covered.max()), True
            logits, predicted = discs(np, points, labels, fed, np.array(k > 0))
            if k == 0:
                oracle = max(iou(canvas_mask(three)) for three in logits[1:].astype(np.float32))
            fed = logits[1 + predicted[1:].argmax() if k == 0 else 0].astype(np.float32)
            answer = canvas_mask(fed)
        ious.append(iou(answer))
    return points, labels, ious, oracle


def test_clicks_and_ious_are_the_host_protocols():
    batch = random_batch()
    num_points = 6
    play = jax.jit(
        functools.partial(
            play_rounds,
            no_embedding,
            disc_decode,
            num_points=num_points,
            mask_size=(CELLS, CELLS),
            pictures=3,
        )
    )
    scores, pictures = jax.device_get(
        play({k: batch[k] for k in ("image", "size", "masks", "valid", "weight")})
    )
    kinds = set()
    for image in range(3):
        for prompt in range(4):
            truth = batch["masks"][image, prompt] > 0
            points, labels, ious, oracle = host_protocol(truth, batch["size"][image], num_points)
            np.testing.assert_allclose(scores["iou"][image, prompt], ious, atol=1e-6)
            np.testing.assert_allclose(scores["oracle_iou"][image, prompt], oracle, atol=1e-6)
            kinds |= set(labels.tolist())
            if prompt == 0:
                np.testing.assert_array_equal(pictures["points"][image], points)
                np.testing.assert_array_equal(pictures["labels"][image], labels)
                np.testing.assert_array_equal(pictures["truth"][image], truth)
                overlap = (pictures["answers"][image] & truth).sum((1, 2)) / (
                    pictures["answers"][image] | truth
                ).sum((1, 2))
                np.testing.assert_allclose(overlap, ious, atol=1e-6)
    assert kinds >= {0, 1}, "the random blobs should provoke both kinds of click"


def test_clicks_in_groups_of_prompts_are_the_same(monkeypatch):
    batch = random_batch()
    arguments = dict(num_points=4, mask_size=(CELLS, CELLS))
    whole = evaluate_interactive(no_embedding, disc_decode, [batch], **arguments)
    # Room for three prompts of each image at a time, which four do not divide by: two are taken.
    monkeypatch.setattr(interactive, "_PIXELS_AT_A_TIME", 3 * 3 * CANVAS**2)
    another = lambda *args: disc_decode(*args)  # not yet compiled
    grouped = evaluate_interactive(no_embedding, another, [batch], **arguments)
    np.testing.assert_array_equal(grouped.iou, whole.iou)


def test_perfect_predictor():
    batch = random_batch()
    result = evaluate_interactive(
        no_embedding, perfect(batch["masks"]), [batch], num_points=3, mask_size=(CANVAS, CANVAS)
    )
    numbers = result.numbers()
    assert numbers["iou@1"] == numbers["iou@3"] == numbers["oracle@1"] == 1.0
    assert numbers["noc@85"] == numbers["noc@90"] == 1.0
    assert numbers["failures@90"] == 0
    assert numbers["objects"] == 11 and numbers["images"] == 3
    # Nothing to correct after the first click, so the answer and its confidence (0.8) stay.
    np.testing.assert_allclose(result.predicted_iou, 0.8)
    assert numbers["iou_head_error"] == pytest.approx(0.2) == numbers["iou_head_calibration"]


def test_oracle_sees_the_mask_that_confidence_missed():
    batch = random_batch()
    truth = batch["masks"]

    def unsure(*args):
        logits, iou = perfect(truth)(*args)
        return logits, iou[:, :, jnp.array([0, 2, 1, 3])]

    numbers = evaluate_interactive(
        no_embedding, unsure, [batch], num_points=2, mask_size=(CANVAS, CANVAS)
    ).numbers()
    assert numbers["iou@1"] == 0.0 and numbers["oracle@1"] == 1.0
    assert numbers["iou@2"] == 1.0, (
        "the second answer is the single-mask token's, which gets the fed-back mask"
    )
    assert numbers["noc@85"] == 2.0


def test_padding_prompts_placeholders_and_empty_truths_count_for_nothing():
    batch = random_batch()
    plain = evaluate_interactive(
        no_embedding, disc_decode, [batch], num_points=4, mask_size=(CELLS, CELLS)
    )
    padded = {key: np.concatenate([value, value[:1]]) for key, value in batch.items()}
    padded["weight"] = np.array([1, 1, 1, 0], np.float32)
    padded["masks"] = np.concatenate(
        [padded["masks"], np.zeros_like(padded["masks"][:, :1])], axis=1
    )
    padded["valid"] = np.concatenate([padded["valid"], np.ones((4, 1), bool)], axis=1)
    got = evaluate_interactive(
        no_embedding, disc_decode, [padded], num_points=4, mask_size=(CELLS, CELLS)
    )
    assert plain.iou.shape == (11, 4)
    np.testing.assert_allclose(got.iou, plain.iou, atol=1e-6)
    assert got.numbers() == pytest.approx(plain.numbers())


def test_sharded_batches_give_the_same_numbers_and_compile_once():
    batch = random_batch()
    rows = np.arange(8) % 3
    batch = {key: value[rows] for key, value in batch.items()}
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    compiled = []

    def decode(radius_scale, embedding, points, labels, mask_logits, has_mask):
        compiled.append(1)
        return disc_decode(embedding, points, labels, mask_logits, has_mask)

    def place(tree):
        return jax.device_put(tree, jax.NamedSharding(mesh, jax.P("data")))

    arguments = dict(num_points=4, mask_size=(CELLS, CELLS))
    plain = evaluate_interactive(no_embedding, disc_decode, [batch], **arguments)
    results = [
        evaluate_interactive(
            no_embedding,
            jax.tree_util.Partial(decode, jnp.float32(value)),
            [batch, batch],
            place=place,
            **arguments,
        )
        for value in (1.0, 2.0)
    ]
    # scan may trace its body more than once, but never again for the second batch or the second set of variables.
    traces = len(compiled)
    evaluate_interactive(
        no_embedding,
        jax.tree_util.Partial(decode, jnp.float32(3)),
        [batch],
        place=place,
        **arguments,
    )
    assert len(compiled) == traces <= 3
    np.testing.assert_allclose(results[0].iou, np.tile(plain.iou, (2, 1)), atol=1e-6)
    assert results[1].images == 16


def test_errors_say_what_to_do():
    batch = random_batch()
    with pytest.raises(ValueError, match="mask_stride=1"):
        evaluate_interactive(
            no_embedding, disc_decode, [batch | {"masks": batch["masks"][:, :, ::4, ::4]}]
        )
    with pytest.raises(ValueError, match=r"lacks \['valid'\]"):
        evaluate_interactive(
            no_embedding, disc_decode, [{k: v for k, v in batch.items() if k != "valid"}]
        )
    with pytest.raises(ValueError, match="0 batches held 0 prompts"):
        evaluate_interactive(no_embedding, disc_decode, [])
    with pytest.raises(ValueError, match=r"mask_size=\(48, 48\)"):
        evaluate_interactive(no_embedding, perfect(batch["masks"]), [batch], num_points=2)
    with pytest.raises(ValueError, match="none of them is valid"):
        evaluate_interactive(
            no_embedding,
            disc_decode,
            [batch | {"valid": np.zeros_like(batch["valid"])}],
            num_points=4,
            mask_size=(CELLS, CELLS),
        )


def known_scores():
    iou = np.array(
        [[0.2, 0.86, 0.92], [0.5, 0.6, 0.7], [0.9, 0.9, 0.8], [0.1, 0.85, 0.85]], np.float32
    )
    return InteractiveScores(
        iou=iou,
        predicted_iou=iou,
        oracle_iou=np.array([0.3, 0.5, 0.9, 0.3], np.float32),
        area_fraction=np.array([0.001, 0.01, 0.02, 0.001], np.float32),
        images=2,
    )


def test_numbers_by_hand():
    numbers = known_scores().numbers()
    assert numbers["iou@1"] == pytest.approx(0.425)
    assert numbers["iou@3"] == pytest.approx((0.92 + 0.7 + 0.8 + 0.85) / 4)
    assert "iou@5" not in numbers
    assert numbers["noc@85"] == pytest.approx((2 + 3 + 1 + 2) / 4)
    assert numbers["failures@85"] == 1
    assert numbers["noc@90"] == pytest.approx((3 + 3 + 1 + 3) / 4)
    assert numbers["failures@90"] == 2
    assert numbers["oracle@1"] == pytest.approx(0.5)
    assert numbers["iou@1/small"] == pytest.approx(0.15) and numbers["objects/small"] == 2
    assert numbers["iou@1/medium"] == pytest.approx(0.7)
    assert numbers["objects/large"] == 0 and "iou@1/large" not in numbers
    assert numbers["iou_head_error"] == numbers["iou_head_calibration"] == 0


def test_number_of_clicks_counts_the_first_click_that_reaches_the_target():
    clicks, failed = number_of_clicks(np.array([[0.1, 0.9, 0.2], [0.1, 0.2, 0.3]]), 0.9)
    np.testing.assert_array_equal(clicks, [2, 3])
    np.testing.assert_array_equal(failed, [False, True])


def test_calibration_error_is_zero_for_an_unbiased_head_and_large_for_a_boasting_one():
    predicted = np.full(1000, 0.75)
    true = np.linspace(0.5, 1.0, 1000)
    assert calibration_error(predicted, true) == pytest.approx(0, abs=1e-9)
    assert calibration_error(np.full(1000, 0.95), true) == pytest.approx(0.2)


def test_save_writes_the_numbers_under_one_name_or_two(tmp_path):
    scores = known_scores()
    path = scores.save(tmp_path / "run")
    assert path == tmp_path / "run" / "interactive.json"
    assert json.loads(path.read_text()) == {"trained": scores.numbers()}
    before = dataclasses.replace(scores, iou=scores.iou / 2)
    scores.save(tmp_path / "run", untrained=before)
    assert json.loads(path.read_text()) == {
        "trained": scores.numbers(),
        "untrained": before.numbers(),
    }
