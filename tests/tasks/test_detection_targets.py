"""Training targets of anchors and regions, on an image small enough to work out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.detection.heads import STAGES
from segjax.ops import boxes
from segjax.tasks.detection import targets

# Compiled as a whole, because single operations would be hundreds of programs.
sample_anchors = jax.jit(targets.sample_anchors, static_argnames="samples")
sample_regions = jax.jit(targets.sample_regions, static_argnames="samples")
match_refined_regions = jax.jit(targets.match_refined_regions, static_argnames="stage")
decode_boxes = jax.jit(boxes.decode_boxes, static_argnums=2)
KEY = jax.random.key(0)
OBJECT, OTHER, CROWD = [0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 60.0, 60.0], [70.0, 70.0, 100.0, 100.0]


def make_ground_truth(*boxes, categories=None, crowd=(), slots=4):
    """Returns ground truth with padding, whose boxes would match if they were not ignored."""
    padded = np.full((slots, 4), [0.0, 0.0, 9.0, 9.0], np.float32)
    padded[: len(boxes)] = np.reshape(boxes, (-1, 4))
    labels = np.zeros(slots, np.int32)
    labels[: len(boxes)] = range(len(boxes)) if categories is None else categories
    slot = np.arange(slots)
    return dict(
        boxes=padded, categories=labels, valid=slot < len(boxes), crowd=np.isin(slot, crowd)
    )


def split_sampled(targets):
    """Returns the indices of the sampled anchors as (positives, negatives)."""
    targets = jax.device_get(targets)
    select = lambda chosen: sorted(targets.index[targets.valid & chosen])
    return select(targets.positive), select(~targets.positive)


def test_anchors_are_positive_negative_or_ignored():
    anchors = np.float32(
        [OBJECT, [0.0, 0.0, 10.0, 16.0], [0.0, 5.0, 10.0, 25.0], [30.0, 30.0, 35.0, 35.0]]
    )
    sampled = sample_anchors(KEY, anchors, make_ground_truth(OBJECT), samples=8)
    # IoU 1, 0.625 (ignored), 50 / 250 and 0
    assert split_sampled(sampled) == ([0], [2, 3])
    np.testing.assert_allclose(sampled.deltas[0], 0, atol=1e-6)


def test_an_object_without_a_good_anchor_gets_its_best_one():
    anchors = np.float32([OBJECT, [40.0, 40.0, 50.0, 50.0], [45.0, 45.0, 46.0, 46.0]])
    sampled = sample_anchors(KEY, anchors, make_ground_truth(OBJECT, OTHER), samples=8)
    assert split_sampled(sampled) == ([0, 1], [2])
    row = int(np.flatnonzero(np.asarray(sampled.index) == 1)[0])
    np.testing.assert_allclose(decode_boxes(sampled.deltas[row], anchors[1]), OTHER, atol=1e-4)


def test_anchors_in_a_crowd_are_ignored():
    anchors = np.float32([CROWD, [72.0, 72.0, 90.0, 90.0], [0.0, 0.0, 5.0, 5.0]])
    sampled = sample_anchors(KEY, anchors, make_ground_truth(OBJECT, CROWD, crowd=(1,)), samples=8)
    assert split_sampled(sampled) == ([2], []), (
        "the last anchor is the best one of the object, however poor"
    )


@pytest.mark.parametrize("make", [sample_anchors, sample_regions])
def test_an_image_without_objects_has_only_negatives(make):
    boxes = np.float32([OBJECT, OTHER])
    options = (
        dict(samples=4)
        if make is sample_anchors
        else dict(filled=np.array([True, False]), samples=4)
    )
    sampled = make(KEY, boxes, ground_truth=make_ground_truth(), **options)
    negatives = 2 if make is sample_anchors else 1
    sampled = jax.device_get(sampled)
    assert sampled.valid.sum() == negatives and np.isfinite(sampled.deltas).all()
    assert not np.any(sampled.positive if make is sample_anchors else sampled.labels)


def test_regions_come_from_proposals_and_ground_truth():
    proposals = np.float32(
        [[0.0, 0.0, 10.0, 12.0], [0.0, 0.0, 10.0, 25.0], [40.0, 40.0, 60.0, 60.0]]
    )
    filled = np.array([True, True, False])
    sampled = sample_regions(
        KEY, proposals, filled, make_ground_truth(OBJECT, OTHER, categories=[4, 2]), samples=16
    )
    sampled = jax.device_get(sampled)
    rows = zip(sampled.boxes, sampled.labels, sampled.valid, strict=True)
    rows = {tuple(box): int(label) for box, label, valid in rows if valid}
    # The third proposal is padding, but equals the box of the second object. The second one has
    # IoU 0.4.
    assert rows == {tuple(OBJECT): 5, tuple(OTHER): 3, (0, 0, 10, 12): 5, (0, 0, 10, 25): 0}
    assert (sampled.labels[:3] > 0).all() and not sampled.labels[3:].any(), (
        "positive regions come first"
    )
    for row in range(3):
        decoded = decode_boxes(sampled.deltas[row], sampled.boxes[row], STAGES[0].weights)
        np.testing.assert_allclose(decoded, [OBJECT, OTHER][int(sampled.matched[row])], atol=1e-4)


def test_at_most_a_quarter_of_the_regions_is_positive_and_none_is_in_a_crowd():
    proposals = np.tile(np.float32([OBJECT, [30.0, 0.0, 40.0, 10.0], CROWD]), (20, 1))
    sampled = sample_regions(
        KEY, proposals, np.ones(60, bool), make_ground_truth(OBJECT, CROWD, crowd=(1,)), samples=16
    )
    sampled = jax.device_get(sampled)
    assert (sampled.labels > 0).sum() == 4 and sampled.valid.sum() == 16
    assert not np.any(np.all(sampled.boxes == CROWD, axis=1) & sampled.valid)


def test_no_gradient_flows_into_proposals():
    def total(proposals):
        sampled = sample_regions(
            KEY, proposals, jnp.ones(2, bool), make_ground_truth(OBJECT), samples=4
        )
        return jnp.sum(sampled.boxes) + jnp.sum(sampled.deltas)

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(np.float32([OBJECT, OTHER])), 0)


def test_later_stages_of_a_cascade_require_more_overlap_and_sample_nothing():
    """Boxes as wide as OBJECT have IoU 10 / height: 0.645 and 0.588. The shifted one has 0.8."""
    shifted = [10 / 9, 0.0, 100 / 9, 10.0]
    boxes = np.float32(
        [[0, 0, 10, 15.5], [0, 0, 10, 17], OBJECT, shifted, OTHER, CROWD, [5, 5, 5, 30], OBJECT]
    )
    filled = np.arange(8) < 7
    wanted = make_ground_truth(OBJECT, OTHER, CROWD, categories=[4, 2, 0], crowd=(2,))
    for stage, labels in ((STAGES[1], [5, 0, 5, 5, 3]), (STAGES[2], [0, 0, 5, 5, 3])):
        sampled = jax.device_get(match_refined_regions(boxes, filled, wanted, stage=stage))
        np.testing.assert_array_equal(sampled.boxes, boxes)
        assert sampled.labels[:5].tolist() == labels
        assert sampled.valid.tolist() == [True] * 5 + [False] * 3, (
            "in a crowd, degenerate, not filled"
        )
        # The object is a ninth of the box width to the left.
        np.testing.assert_allclose(sampled.deltas[3], [-stage.weights[0] / 9, 0, 0, 0], atol=1e-5)
        np.testing.assert_allclose(
            decode_boxes(sampled.deltas[0], boxes[0], stage.weights), OBJECT, atol=1e-4
        )
    empty = jax.device_get(
        match_refined_regions(boxes, filled, make_ground_truth(), stage=STAGES[1])
    )
    assert (
        not empty.labels.any()
        and empty.valid.tolist() == [True] * 6 + [False] * 2
        and np.isfinite(empty.deltas).all()
    )
