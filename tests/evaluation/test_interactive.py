"""The interactive protocol against NumPy and SciPy, and with decoders of known scores."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from segjax.evaluation import interactive_rounds
from segjax.evaluation.interactive import evaluate_interactive, play_rounds
from segjax.evaluation.interactive_scores import (
    InteractiveScores,
    calibration_error,
    number_of_clicks,
)

CANVAS, CELLS = 48, 24


def make_random_batch(seed=0, images=3, prompts=4, canvas=CANVAS):
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


def make_perfect_decoder(ground_truth):
    """Returns a decoder whose second of three masks is the ground truth, at canvas resolution."""
    logits = jnp.where(ground_truth > 0, 4.0, -4.0)[:, :, None]

    def decode(embedding, points, labels, mask_logits, has_mask):
        wrong = jnp.full_like(logits, -4.0)
        single = jnp.where(has_mask[:, :, None, None, None], logits, wrong)
        iou = jnp.broadcast_to(jnp.array([0.9, 0.3, 0.8, 0.1]), (*logits.shape[:2], 4))
        return jnp.concatenate([single, wrong, logits, wrong], axis=2), iou

    return decode


def decode_discs(xp, points, labels, mask_logits, has_mask):
    """Decodes with discs: clicks add discs to the fed-back mask, or cut them out.

    Each token has another radius, so that mixed-up tokens show. Half-pixel slopes keep logits away
    from 0.

    Args:
      xp: numpy or jax.numpy.
      points: as for `decode`.
      labels: as for `decode`.
      mask_logits: as for `decode`.
      has_mask: as for `decode`.
    """
    centers = (xp.arange(CELLS) + 0.5) * (CANVAS / CELLS) - 0.5
    radii = xp.asarray([7.0, 5.0, 9.0, 13.0])[:, None, None]
    dx = centers - points[..., 0, None, None, None]
    dy = centers[:, None] - points[..., 1, None, None, None]
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
    return decode_discs(jnp, points, labels, mask_logits, has_mask)


def play_on_host(ground_truth, size, num_points):
    """Plays RITM's loop for one object, in NumPy and SciPy."""
    height, width = size
    shape = ground_truth.shape
    points, labels = np.zeros((num_points, 2), np.float32), np.full(num_points, -1)
    prediction, fed, clicked = (
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
        return (mask & ground_truth).sum() / max((mask | ground_truth).sum(), 1)

    def distance(mask):
        return ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1] * ~clicked

    for k in range(num_points):
        missed, covered = distance(ground_truth & ~prediction), distance(prediction & ~ground_truth)
        if max(missed.max(), covered.max()) > 0:
            deepest = missed if missed.max() > covered.max() else covered
            y, x = np.unravel_index(deepest.argmax(), shape)
            points[k], labels[k], clicked[y, x] = (x, y), int(missed.max() > covered.max()), True
            logits, predicted = decode_discs(np, points, labels, fed, np.array(k > 0))
            if k == 0:
                oracle = max(iou(canvas_mask(three)) for three in logits[1:].astype(np.float32))
            fed = logits[1 + predicted[1:].argmax() if k == 0 else 0].astype(np.float32)
            prediction = canvas_mask(fed)
        ious.append(iou(prediction))
    return points, labels, ious, oracle


def test_clicks_and_ious_equal_those_of_the_host():
    batch = make_random_batch()
    num_points = 6
    play = jax.jit(
        functools.partial(
            play_rounds,
            no_embedding,
            disc_decode,
            num_points=num_points,
            mask_size=(CELLS, CELLS),
            num_recorded=3,
        )
    )
    scores, rounds = jax.device_get(
        play({k: batch[k] for k in ("image", "size", "masks", "valid", "weight")})
    )
    kinds = set()
    for image in range(3):
        for prompt in range(4):
            ground_truth = batch["masks"][image, prompt] > 0
            points, labels, ious, oracle = play_on_host(
                ground_truth, batch["size"][image], num_points
            )
            np.testing.assert_allclose(scores["iou"][image, prompt], ious, atol=1e-6)
            np.testing.assert_allclose(scores["oracle_iou"][image, prompt], oracle, atol=1e-6)
            kinds |= set(labels.tolist())
            if prompt == 0:
                np.testing.assert_array_equal(rounds["points"][image], points)
                np.testing.assert_array_equal(rounds["labels"][image], labels)
                np.testing.assert_array_equal(rounds["ground_truth"][image], ground_truth)
                overlap = (rounds["predictions"][image] & ground_truth).sum((1, 2)) / (
                    rounds["predictions"][image] | ground_truth
                ).sum((1, 2))
                np.testing.assert_allclose(overlap, ious, atol=1e-6)
    assert kinds >= {0, 1}, "the random blobs should cause both kinds of click"


def test_clicks_computed_in_groups_are_the_same(monkeypatch):
    batch = make_random_batch()
    arguments = dict(num_points=4, mask_size=(CELLS, CELLS))
    whole = evaluate_interactive(no_embedding, disc_decode, [batch], **arguments)
    # There is memory for three prompts per image. Four are not divisible by three, so two are used.
    monkeypatch.setattr(interactive_rounds, "_PIXELS_AT_A_TIME", 3 * 3 * CANVAS**2)
    another = lambda *args: disc_decode(*args)  # a new function, so it is compiled again
    grouped = evaluate_interactive(no_embedding, another, [batch], **arguments)
    np.testing.assert_array_equal(grouped.iou, whole.iou)


def test_a_perfect_decoder_needs_one_click():
    batch = make_random_batch()
    result = evaluate_interactive(
        no_embedding,
        make_perfect_decoder(batch["masks"]),
        [batch],
        num_points=3,
        mask_size=(CANVAS, CANVAS),
    )
    numbers = result.summarize()
    assert numbers["iou@1"] == numbers["iou@3"] == numbers["oracle@1"] == 1.0
    assert numbers["noc@85"] == numbers["noc@90"] == 1.0
    assert numbers["failures@90"] == 0
    assert numbers["objects"] == 11 and numbers["images"] == 3
    # Nothing is left to correct after the first click, so mask and confidence (0.8) stay.
    np.testing.assert_allclose(result.predicted_iou, 0.8)
    assert numbers["iou_head_error"] == pytest.approx(0.2) == numbers["iou_head_calibration"]


def test_ignored_pixels_are_never_clicked_and_count_in_no_iou():
    batch = make_random_batch()
    ignored = ndimage.binary_dilation(batch["masks"][:, :, :, 20:24], iterations=1)
    masks = batch["masks"].astype(np.int8)
    masks[:, :, :, 20:24][ignored] = -1
    options = dict(num_points=3, mask_size=(CANVAS, CANVAS))
    # This decoder fills all ignored pixels, which would cost it IoU and clicks
    decode = make_perfect_decoder(masks != 0)
    result = evaluate_interactive(no_embedding, decode, [batch | {"masks": masks}], **options)
    assert result.summarize()["iou@3"] == 1.0
    counted = evaluate_interactive(
        no_embedding, decode, [batch | {"masks": (masks > 0).astype(np.int8)}], **options
    )
    assert counted.summarize()["iou@3"] < 1.0
    _, rounds = play_rounds(
        no_embedding, decode, batch | {"masks": masks}, num_recorded=3, **options
    )
    x, y = np.moveaxis(np.asarray(rounds["points"]).astype(int), -1, 0)
    first = np.argmax(batch["valid"], axis=1)
    clicked = masks[np.arange(3)[:, None], first[:, None], y, x]
    assert (clicked[np.asarray(rounds["labels"]) >= 0] >= 0).all()


def test_the_oracle_finds_a_mask_of_low_predicted_iou():
    batch = make_random_batch()
    ground_truth = batch["masks"]

    def unsure(*args):
        logits, iou = make_perfect_decoder(ground_truth)(*args)
        return logits, iou[:, :, jnp.array([0, 2, 1, 3])]

    numbers = evaluate_interactive(
        no_embedding, unsure, [batch], num_points=2, mask_size=(CANVAS, CANVAS)
    ).summarize()
    assert numbers["iou@1"] == 0.0 and numbers["oracle@1"] == 1.0
    assert numbers["iou@2"] == 1.0, (
        "the second mask is the single-mask token's, which gets the fed-back logits"
    )
    assert numbers["noc@85"] == 2.0


def test_padding_placeholders_and_empty_objects_do_not_count():
    batch = make_random_batch()
    plain = evaluate_interactive(
        no_embedding, disc_decode, [batch], num_points=4, mask_size=(CELLS, CELLS)
    )
    padded = {key: np.concatenate([value, value[:1]]) for key, value in batch.items()}
    padded["weight"] = np.array([1, 1, 1, 0], np.float32)
    padded["masks"] = np.concatenate(
        [padded["masks"], np.zeros_like(padded["masks"][:, :1])], axis=1
    )
    padded["valid"] = np.concatenate([padded["valid"], np.ones((4, 1), bool)], axis=1)
    padded_scores = evaluate_interactive(
        no_embedding, disc_decode, [padded], num_points=4, mask_size=(CELLS, CELLS)
    )
    assert plain.iou.shape == (11, 4)
    np.testing.assert_allclose(padded_scores.iou, plain.iou, atol=1e-6)
    assert padded_scores.summarize() == pytest.approx(plain.summarize())


def test_images_without_a_counted_object_are_not_recorded():
    """They would be black rows of the sheet."""
    batch = make_random_batch()
    batch["weight"][1] = 0
    batch["valid"][2] = False
    arguments = dict(num_points=2, mask_size=(CELLS, CELLS), num_recorded=3)
    result = evaluate_interactive(no_embedding, disc_decode, [batch], **arguments)
    assert {len(rows) for rows in result.rounds.values()} == {1}
    np.testing.assert_array_equal(result.rounds["ground_truth"][0], batch["masks"][0, 0] > 0)


def test_sharded_batches_give_equal_scores_and_compile_once():
    batch = make_random_batch()
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
    # scan may trace its body more than once, but not again for a second batch or new variables.
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


def test_errors_suggest_a_fix():
    batch = make_random_batch()
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
        evaluate_interactive(
            no_embedding, make_perfect_decoder(batch["masks"]), [batch], num_points=2
        )
    with pytest.raises(ValueError, match="none of them is valid"):
        evaluate_interactive(
            no_embedding,
            disc_decode,
            [batch | {"valid": np.zeros_like(batch["valid"])}],
            num_points=4,
            mask_size=(CELLS, CELLS),
        )


def make_known_scores():
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


def test_summary_by_hand():
    numbers = make_known_scores().summarize()
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


def test_calibration_error_is_zero_for_an_unbiased_head_and_large_for_an_overconfident_one():
    predicted = np.full(1000, 0.75)
    true = np.linspace(0.5, 1.0, 1000)
    assert calibration_error(predicted, true) == pytest.approx(0, abs=1e-9)
    assert calibration_error(np.full(1000, 0.95), true) == pytest.approx(0.2)


def test_save_writes_the_numbers_under_one_name_or_two(tmp_path):
    scores = make_known_scores()
    path = scores.save(tmp_path / "run")
    assert path == tmp_path / "run" / "interactive.json"
    assert json.loads(path.read_text()) == {"trained": scores.summarize()}
    before = dataclasses.replace(scores, iou=scores.iou / 2)
    scores.save(tmp_path / "run", untrained=before)
    assert json.loads(path.read_text()) == {
        "trained": scores.summarize(),
        "untrained": before.summarize(),
    }
