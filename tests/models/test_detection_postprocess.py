"""From scores to proposals and detections: by hand where two libraries differ, and the whole on the debug model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model
from segjax.models.detection.conventions import CONVENTIONS
from segjax.models.detection.heads import STAGES
from segjax.models.detection.postprocess import best_detections, mean_probabilities
from segjax.models.detection.rpn import Proposals, best_proposals, pyramid_anchors
from segjax.ops.boxes import box_iou

TORCHVISION, DETECTRON2 = CONVENTIONS["torchvision"], CONVENTIONS["detectron2"]


@pytest.mark.parametrize(
    "rules, step, base", [(TORCHVISION, 61, [-362, -181, 362, 181]), (DETECTRON2, 64, None)]
)
def test_anchors_of_a_picture_of_800_rows(rules, step, base):
    """268,569 in all (13 rows of P6 on 800 pixels); torchvision puts those of P6 800 // 13 pixels apart."""
    grids = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    levels = pyramid_anchors(rules, (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (800, 1344), grids)
    assert sum(map(len, levels)) == 268_569
    first, below = levels[-1][0], levels[-1][21 * 3]
    np.testing.assert_allclose(below - first, [0, step, 0, step])
    half = 512 * np.array([2**0.5, 0.5**0.5]) / 2
    np.testing.assert_allclose(first, base or [*-half, *half], atol=1e-3)
    with pytest.raises(
        ValueError, match=r"anchor_sizes are \(32,\); expected one for each of the 5 levels"
    ):
        pyramid_anchors(rules, (32,), (1.0,), (800, 1344), grids)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("before", "after"))
def run_proposals(rules, logits, deltas, anchors, sizes, before, after):
    return best_proposals(rules, logits, deltas, anchors, sizes, before=before, after=after)


def proposed(rules, levels, before=4, after=6):
    """[(score, box)] of two levels of at most three (logit, box); the boxes are the anchors, which nothing moves."""
    levels = [
        list(level) + [(-np.inf, [0, 0, 0, 0])] * (3 - len(level)) for level in (*levels, [])[:2]
    ]
    logits = [np.float32([[logit for logit, _ in level]]) for level in levels]
    anchors = [np.float32([box for _, box in level]) for level in levels]
    deltas = [np.zeros((1, 3, 4), np.float32)] * 2
    found = run_proposals(
        rules, logits, deltas, anchors, np.array([[50, 100]]), before=before, after=after
    )
    rows = zip(*jax.tree.map(lambda x: np.asarray(x)[0], found), strict=True)
    return [(round(float(score), 3), box.tolist()) for box, score, valid in rows if valid]


def test_proposals_are_suppressed_level_by_level_and_ranked_together():
    box, near, other = [10, 10, 30, 30], [10, 10, 30, 32], [60, 10, 90, 30]
    levels = [[(1.0, box), (2.0, near), (0.5, other)], [(1.5, box)]]
    assert proposed(DETECTRON2, levels) == [(2.0, near), (1.5, box), (0.5, other)]
    probability = lambda x: round(float(jax.nn.sigmoid(x)), 3)
    want = [(probability(2.0), near), (probability(1.5), box), (probability(0.5), other)]
    assert proposed(TORCHVISION, levels) == want
    levels[1].append((0.1, other))
    assert proposed(DETECTRON2, levels, before=1, after=3) == [(2.0, near), (1.5, box)], (
        "the best of each level take part"
    )
    assert proposed(DETECTRON2, levels, after=1, before=1) == [(2.0, near)]


def test_proposals_are_cut_to_the_content_and_dropped_where_nothing_is_left():
    levels = [[(3.0, [-10, -10, 20, 20]), (2.0, [101, 0, 150, 40]), (1.0, [90, 40, 200, 200])]]
    assert proposed(DETECTRON2, levels) == [(3.0, [0, 0, 20, 20]), (1.0, [90, 40, 100, 50])]
    sliver = [[(3.0, [0, 0, 20, 5e-4])]]
    assert proposed(TORCHVISION, sliver) == [] and len(proposed(DETECTRON2, sliver)) == 1


def test_no_gradient_goes_through_proposals():
    anchors = [np.float32([[0, 0, 10, 10]])]

    def total(logit, delta):
        found = best_proposals(
            DETECTRON2, [logit], [delta], anchors, jnp.array([[50, 50]]), before=1, after=1
        )
        return found.boxes.sum() + found.scores.sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))(jnp.ones((1, 1)), jnp.ones((1, 1, 4)))
    assert not any(jnp.any(gradient) for gradient in gradients)


@functools.partial(jax.jit, static_argnames=("candidates", "count", "weights"))
def run_detections(probabilities, deltas, proposals, sizes, **options):
    return best_detections(probabilities, deltas, proposals, sizes, **options)


def detected(scores, boxes, deltas=None, valid=(True, True, True), **options):
    """([(score, label, box)], what was left out) of three regions and two classes, rows of scores background first."""
    room = 3 - len(scores)
    scores, boxes = (
        np.float32([*scores, *[[1, 0, 0]] * room]),
        np.float32([[*boxes, *[[0, 0, 1, 1]] * room]]),
    )
    deltas = np.zeros((1, 3, 2, 4), np.float32) if deltas is None else deltas
    options = (
        dict(score_threshold=0.05, nms_threshold=0.5, side=0.0, candidates=6, count=5) | options
    )
    proposals = Proposals(boxes, np.zeros((1, 3), np.float32), np.array([valid]))
    found = run_detections(scores[None], deltas, proposals, np.array([[50, 100]]), **options)
    boxes, scores, labels, valid, left_out = jax.tree.map(lambda x: np.asarray(x)[0], found)
    assert len(valid) == options["count"] and not scores[~valid].any() and not labels[~valid].any()
    rows = zip(scores[valid], labels[valid], boxes[valid], strict=True)
    return [(round(float(score), 3), int(label), box.tolist()) for score, label, box in rows], int(
        left_out
    )


BOX, NEAR, OTHER = [10, 10, 30, 30], [10, 10, 30, 31], [60, 10, 90, 30]


def test_a_region_may_be_of_two_classes_and_suppresses_those_of_its_own():
    scores = [[0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.85, 0.15, 0.0]]
    kept, left_out = detected(scores, [BOX, NEAR, OTHER])
    assert kept == [(0.6, 2, NEAR), (0.5, 1, BOX), (0.15, 1, OTHER)] and left_out == 0


def test_scores_must_be_above_the_threshold():
    scores = [[0.75, 0.25, 0.0], [0.5, 0.0, 0.5]]
    assert detected(scores, [BOX, OTHER], score_threshold=0.25)[0] == [(0.5, 2, OTHER)]
    assert detected(scores, [BOX, OTHER], valid=(True, False, True))[0] == [(0.25, 1, BOX)]


def test_what_takes_no_part_is_counted():
    kept, left_out = detected(
        [[0.2, 0.4, 0.4], [0.1, 0.2, 0.7]], [BOX, OTHER], candidates=3, count=2
    )
    assert [score for score, *_ in kept] == [0.7, 0.4] and left_out == 1


def test_each_class_has_a_box_or_all_have_one():
    """A delta of 10 moves by a side, as the head's are weighted (10, 10, 5, 5)."""
    deltas = np.zeros((1, 3, 2, 4), np.float32)
    deltas[0, 0, 1, 0] = 10
    kept, _ = detected([[0.1, 0.5, 0.4]], [BOX], deltas)
    assert kept == [(0.5, 1, BOX), (0.4, 2, [30, 10, 50, 30])]
    kept, _ = detected([[0.1, 0.5, 0.4]], [BOX], deltas[:, :, 1:])
    assert [box for *_, box in kept] == [[30, 10, 50, 30]] * 2


def test_a_cascade_s_last_boxes_have_its_last_weights_and_scores_are_means():
    """A delta of 10 moves by a third of a side in the third stage. A softmax of logarithms takes them back."""
    deltas = np.zeros((1, 3, 1, 4), np.float32)
    deltas[0, 0, 0, 0] = 10
    stages = np.float32([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.1, 0.0, 0.9]])
    with np.errstate(divide="ignore"):
        mean = np.asarray(jax.jit(mean_probabilities)(list(np.log(stages))))
    np.testing.assert_allclose(mean, [0.3, 0.3, 0.4], atol=1e-6)
    kept, _ = detected([mean], [[10, 10, 40, 30]], deltas, weights=STAGES[2].weights)
    assert kept == [(0.4, 2, [20, 10, 50, 30]), (0.3, 1, [20, 10, 50, 30])]


def test_short_sides_are_dropped():
    scores = [[0.1, 0.9, 0.0], [0.2, 0.8, 0.0]]
    kept, _ = detected(scores, [[10, 10, 30, 10.005], BOX], side=TORCHVISION.detection_side)
    assert kept == [(0.8, 1, BOX)]


@pytest.fixture(scope="module")
def whole():
    """(model, detections, masks, keypoints) of two pictures, the second with padding."""
    model = build_model("maskrcnn_debug", score_threshold=0.1)
    variables = jax.tree.map(jnp.asarray, drawn_variables(model, init_model))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    run = jax.jit(lambda v, images, sizes: model.apply(v, images, sizes, method="detect"))
    return model, *jax.tree.map(np.asarray, run(variables, images, np.array([[64, 96], [50, 70]])))


def test_whole_inference_has_fixed_shapes(whole):
    model, found, masks, keypoints = whole
    assert (
        found.boxes.shape == (2, 8, 4)
        and masks.shape == (2, 8, 28, 28)
        and keypoints.shape == (2, 8, 56, 56, 2)
    )
    assert (
        found.valid.sum(1).min() > 1
        and ((masks >= 0) & (masks <= 1)).all()
        and np.isfinite(keypoints).all()
    )


def test_whole_inference_keeps_its_promises(whole):
    model, found, *_ = whole
    for i, size in enumerate([(64, 96), (50, 70)]):
        valid = found.valid[i]
        boxes, scores, labels = (x[i][valid] for x in (found.boxes, found.scores, found.labels))
        assert (np.diff(scores) <= 0).all() and (scores > model.score_threshold).all()
        assert ((labels >= 1) & (labels <= model.classes)).all() and not found.labels[i][
            ~valid
        ].any()
        assert (
            (boxes >= 0).all() and (boxes[:, 2] <= size[1]).all() and (boxes[:, 3] <= size[0]).all()
        )
        overlap = np.asarray(box_iou(boxes, boxes)) - np.eye(len(boxes))
        assert (overlap[labels[:, None] == labels] <= model.nms_threshold).all()
