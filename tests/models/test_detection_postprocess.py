"""Selection of proposals and detections: by hand where libraries differ, then the debug model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

from segjax.models.build import build_model, init_model
from segjax.models.detection.conventions import CONVENTIONS
from segjax.models.detection.heads import STAGES
from segjax.models.detection.postprocess import DetectionSelection, average_stages
from segjax.models.detection.rpn import AnchorGenerator, RegionProposals
from segjax.ops.boxes import box_iou

TORCHVISION, DETECTRON2 = CONVENTIONS["torchvision"], CONVENTIONS["detectron2"]


@pytest.mark.parametrize(
    "rules, step, base", [(TORCHVISION, 61, [-362, -181, 362, 181]), (DETECTRON2, 64, None)]
)
def test_anchors_of_an_image_of_800_rows(rules, step, base):
    """There are 268,569. P6 has 13 rows, which torchvision puts 800 // 13 pixels apart."""
    grids = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    levels = rules.anchors.generate((800, 1344), grids)
    assert sum(level.shape[1] for level in levels) == 268_569
    first, below = levels[-1][0, 0], levels[-1][0, 21 * 3]
    np.testing.assert_allclose(below - first, [0, step, 0, step])
    half = 512 * np.array([2**0.5, 0.5**0.5]) / 2
    np.testing.assert_allclose(first, base or [*-half, *half], atol=1e-3)
    with pytest.raises(
        ValueError, match=r"anchor_sizes are \(32,\); expected one for each of the 5 levels"
    ):
        AnchorGenerator(sizes=(32,), ratios=(1.0,)).generate((800, 1344), grids)


@functools.partial(jax.jit, static_argnums=0)
def run_selection(selection, *arguments):
    return selection.select(*arguments)


def select_proposals(rules, levels, before=4, after=6):
    """Selects from two levels of at most three (logit, box). The deltas move no anchor.

    Returns:
      (score, box) of each proposal.
    """
    levels = [
        list(level) + [(-np.inf, [0, 0, 0, 0])] * (3 - len(level)) for level in (*levels, [])[:2]
    ]
    logits = [np.float32([[logit for logit, _ in level]]) for level in levels]
    anchors = [np.float32([[box for _, box in level]]) for level in levels]
    deltas = [np.zeros((1, 3, 4), np.float32)] * 2
    selection = dataclasses.replace(rules.proposals, before=(0, before), after=(0, after))
    proposals = run_selection(selection, logits, deltas, anchors, np.array([[50, 100]]))
    rows = zip(*jax.tree.map(lambda x: np.asarray(x)[0], proposals), strict=True)
    return [(round(float(score), 3), box.tolist()) for box, score, valid in rows if valid]


def test_proposals_are_suppressed_by_level_and_ranked_together():
    box, near, other = [10, 10, 30, 30], [10, 10, 30, 32], [60, 10, 90, 30]
    levels = [[(1.0, box), (2.0, near), (0.5, other)], [(1.5, box)]]
    assert select_proposals(DETECTRON2, levels) == [(2.0, near), (1.5, box), (0.5, other)]
    probability = lambda x: round(float(jax.nn.sigmoid(x)), 3)
    want = [(probability(2.0), near), (probability(1.5), box), (probability(0.5), other)]
    assert select_proposals(TORCHVISION, levels) == want
    levels[1].append((0.1, other))
    # The best of each level enter suppression.
    assert select_proposals(DETECTRON2, levels, before=1, after=3) == [(2.0, near), (1.5, box)]
    assert select_proposals(DETECTRON2, levels, after=1, before=1) == [(2.0, near)]


def test_proposals_are_clipped_to_the_content_and_dropped_if_nothing_is_left():
    levels = [[(3.0, [-10, -10, 20, 20]), (2.0, [101, 0, 150, 40]), (1.0, [90, 40, 200, 200])]]
    assert select_proposals(DETECTRON2, levels) == [(3.0, [0, 0, 20, 20]), (1.0, [90, 40, 100, 50])]
    sliver = [[(3.0, [0, 0, 20, 5e-4])]]
    assert select_proposals(TORCHVISION, sliver) == []
    assert len(select_proposals(DETECTRON2, sliver)) == 1


def test_proposals_of_infinite_logits_are_dropped():
    box, other = [10, 10, 30, 30], [60, 10, 90, 30]
    levels = [[(np.inf, box), (0.5, other)], [(np.nan, box)]]
    assert select_proposals(DETECTRON2, levels) == [(0.5, other)]
    probability = round(float(jax.nn.sigmoid(0.5)), 3)
    assert select_proposals(TORCHVISION, levels) == [(probability, other)]


def test_no_regions_give_no_detections():
    proposals = RegionProposals(
        *(np.zeros((1, 0, *s), t) for s, t in (((4,), float), ((), float), ((), bool)))
    )
    selection = DetectionSelection(count=5)
    arguments = np.zeros((1, 0, 3), np.float32), np.zeros((1, 0, 2, 4), np.float32)
    found = run_detections(selection, *arguments, proposals, np.array([[50, 100]]))
    assert found.boxes.shape == (1, 5, 4) and not found.valid.any() and not found.labels.any()


def test_no_gradient_flows_through_proposals():
    anchors = [np.float32([[[0, 0, 10, 10]]])]
    selection = dataclasses.replace(DETECTRON2.proposals, before=(1, 1), after=(1, 1))

    def total(logit, delta):
        proposals = selection.select([logit], [delta], anchors, jnp.array([[50, 50]]))
        return proposals.boxes.sum() + proposals.scores.sum()

    gradients = jax.jit(jax.grad(total, (0, 1)))(jnp.ones((1, 1)), jnp.ones((1, 1, 4)))
    assert not any(jnp.any(gradient) for gradient in gradients)


@functools.partial(jax.jit, static_argnums=0, static_argnames="weights")
def run_detections(selection, *arguments, **options):
    return selection.select(*arguments, **options)


def select_detections(
    scores, boxes, deltas=None, valid=(True, True, True), weights=STAGES[0].weights, **options
):
    """Selects from three regions and two classes; rows of scores have the background first.

    Returns:
      rows: (score, label, box) of each detection.
      left_out: number of scores that were not considered.
    """
    missing = 3 - len(scores)
    scores = np.float32([*scores, *[[1, 0, 0]] * missing])
    boxes = np.float32([[*boxes, *[[0, 0, 1, 1]] * missing]])
    deltas = np.zeros((1, 3, 2, 4), np.float32) if deltas is None else deltas
    selection = DetectionSelection(**dict(candidates=6, count=5) | options)
    proposals = RegionProposals(boxes, np.zeros((1, 3), np.float32), np.array([valid]))
    arguments = scores[None], deltas, proposals, np.array([[50, 100]])
    detections = run_detections(selection, *arguments, weights=weights)
    boxes, scores, labels, valid, left_out = jax.tree.map(lambda x: np.asarray(x)[0], detections)
    assert len(valid) == selection.count and not scores[~valid].any() and not labels[~valid].any()
    rows = zip(scores[valid], labels[valid], boxes[valid], strict=True)
    rows = [(round(float(score), 3), int(label), box.tolist()) for score, label, box in rows]
    return rows, int(left_out)


BOX, NEAR, OTHER = [10, 10, 30, 30], [10, 10, 30, 31], [60, 10, 90, 30]


def test_a_region_can_have_two_classes_and_suppresses_those_of_its_own_class():
    scores = [[0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.85, 0.15, 0.0]]
    kept, left_out = select_detections(scores, [BOX, NEAR, OTHER])
    assert kept == [(0.6, 2, NEAR), (0.5, 1, BOX), (0.15, 1, OTHER)] and left_out == 0


def test_scores_are_above_the_threshold():
    scores = [[0.75, 0.25, 0.0], [0.5, 0.0, 0.5]]
    assert select_detections(scores, [BOX, OTHER], score_threshold=0.25)[0] == [(0.5, 2, OTHER)]
    kept, _ = select_detections(scores, [BOX, OTHER], valid=(True, False, True))
    assert kept == [(0.25, 1, BOX)]


def test_scores_that_are_not_considered_are_counted():
    scores = [[0.2, 0.4, 0.4], [0.1, 0.2, 0.7]]
    kept, left_out = select_detections(scores, [BOX, OTHER], candidates=3, count=2)
    assert [score for score, *_ in kept] == [0.7, 0.4] and left_out == 1


def test_each_class_has_a_box_or_all_share_one():
    """A delta of 10 moves by one side, as the weights of the head are (10, 10, 5, 5)."""
    deltas = np.zeros((1, 3, 2, 4), np.float32)
    deltas[0, 0, 1, 0] = 10
    kept, _ = select_detections([[0.1, 0.5, 0.4]], [BOX], deltas)
    assert kept == [(0.5, 1, BOX), (0.4, 2, [30, 10, 50, 30])]
    kept, _ = select_detections([[0.1, 0.5, 0.4]], [BOX], deltas[:, :, 1:])
    assert [box for *_, box in kept] == [[30, 10, 50, 30]] * 2


def test_a_cascade_decodes_its_last_boxes_with_its_last_weights_and_averages_scores():
    """A delta of 10 moves by a third of a side in stage 3. Softmax inverts the logarithm."""
    deltas = np.zeros((1, 3, 1, 4), np.float32)
    deltas[0, 0, 0, 0] = 10
    stages = np.float32([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.1, 0.0, 0.9]])
    with np.errstate(divide="ignore"):
        mean = np.asarray(jax.jit(average_stages)(list(np.log(stages))))
    np.testing.assert_allclose(mean, [0.3, 0.3, 0.4], atol=1e-6)
    kept, _ = select_detections([mean], [[10, 10, 40, 30]], deltas, weights=STAGES[2].weights)
    assert kept == [(0.4, 2, [20, 10, 50, 30]), (0.3, 1, [20, 10, 50, 30])]


def test_short_sides_are_dropped():
    scores = [[0.1, 0.9, 0.0], [0.2, 0.8, 0.0]]
    boxes = [[10, 10, 30, 10.005], BOX]
    kept, _ = select_detections(scores, boxes, min_side=TORCHVISION.min_detection_side)
    assert kept == [(0.8, 1, BOX)]


@pytest.fixture(scope="module")
def outputs():
    """(model, detections, masks, keypoints) of two images, the second with padding."""
    model = build_model("maskrcnn_debug", score_threshold=0.1)
    variables = jax.tree.map(jnp.asarray, drawn_variables(model, init_model))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    run = jax.jit(lambda v, images, sizes: model.apply(v, images, sizes, method="detect"))
    return model, *jax.tree.map(np.asarray, run(variables, images, np.array([[64, 96], [50, 70]])))


def test_inference_has_fixed_shapes(outputs):
    _, detections, masks, keypoints = outputs
    assert detections.boxes.shape == (2, 8, 4)
    assert masks.shape == (2, 8, 28, 28)
    assert keypoints.shape == (2, 8, 56, 56, 2)
    assert detections.valid.sum(1).min() > 1
    assert ((masks >= 0) & (masks <= 1)).all()
    assert np.isfinite(keypoints).all()


def test_detections_are_ranked_suppressed_and_inside_the_content(outputs):
    model, detections, *_ = outputs
    selection = model.detection_selection
    for i, size in enumerate([(64, 96), (50, 70)]):
        valid = detections.valid[i]
        boxes, scores, labels = (
            x[i][valid] for x in (detections.boxes, detections.scores, detections.labels)
        )
        assert (np.diff(scores) <= 0).all() and (scores > selection.score_threshold).all()
        assert ((labels >= 1) & (labels <= model.classes)).all()
        assert not detections.labels[i][~valid].any()
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= size[1]).all() and (boxes[:, 3] <= size[0]).all()
        overlap = np.asarray(box_iou(boxes, boxes)) - np.eye(len(boxes))
        assert (overlap[labels[:, None] == labels] <= selection.nms_threshold).all()
