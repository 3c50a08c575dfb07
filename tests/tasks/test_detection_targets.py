"""What anchors and regions are trained to say, on a picture small enough to work out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.detection.heads import STAGES
from segjax.ops import boxes
from segjax.tasks.detection import targets

# Compiled whole: operations one by one would be hundreds of programs.
sample_anchors = jax.jit(targets.sample_anchors, static_argnames="samples")
sample_regions = jax.jit(targets.sample_regions, static_argnames="samples")
match_refined_regions = jax.jit(targets.match_refined_regions, static_argnames="stage")
decode_boxes = jax.jit(boxes.decode_boxes, static_argnums=2)
KEY = jax.random.key(0)
OBJECT, OTHER, CROWD = [0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 60.0, 60.0], [70.0, 70.0, 100.0, 100.0]


def truth(*boxes, categories=None, crowd=(), places=4):
    """Ground truth with padding behind it, whose boxes are such that they would match if they were looked at."""
    padded = np.full((places, 4), [0.0, 0.0, 9.0, 9.0], np.float32)
    padded[: len(boxes)] = np.reshape(boxes, (-1, 4))
    numbers = np.zeros(places, np.int32)
    numbers[: len(boxes)] = range(len(boxes)) if categories is None else categories
    number = np.arange(places)
    return dict(
        boxes=padded, categories=numbers, valid=number < len(boxes), crowd=np.isin(number, crowd)
    )


def drawn(targets):
    """Indices or boxes that are trained on, as (positives, negatives)."""
    targets = jax.device_get(targets)
    of = lambda chosen: sorted(targets.index[targets.valid & chosen])
    return of(targets.positive), of(~targets.positive)


def test_anchors_are_objects_background_or_neither():
    anchors = np.float32(
        [OBJECT, [0.0, 0.0, 10.0, 16.0], [0.0, 5.0, 10.0, 25.0], [30.0, 30.0, 35.0, 35.0]]
    )
    found = sample_anchors(KEY, anchors, truth(OBJECT), samples=8)
    # IoUs 1, .625 (neither), 50 / 250 and 0.
    assert drawn(found) == ([0], [2, 3])
    np.testing.assert_allclose(found.deltas[0], 0, atol=1e-6)


def test_an_object_that_no_anchor_fits_takes_its_best_one():
    anchors = np.float32([OBJECT, [40.0, 40.0, 50.0, 50.0], [45.0, 45.0, 46.0, 46.0]])
    found = sample_anchors(KEY, anchors, truth(OBJECT, OTHER), samples=8)
    assert drawn(found) == ([0, 1], [2])
    row = int(np.flatnonzero(np.asarray(found.index) == 1)[0])
    np.testing.assert_allclose(decode_boxes(found.deltas[row], anchors[1]), OTHER, atol=1e-4)


def test_a_crowd_is_neither_object_nor_background():
    anchors = np.float32([CROWD, [72.0, 72.0, 90.0, 90.0], [0.0, 0.0, 5.0, 5.0]])
    found = sample_anchors(KEY, anchors, truth(OBJECT, CROWD, crowd=(1,)), samples=8)
    assert drawn(found) == ([2], []), "the last anchor is the object's best, however poor"


@pytest.mark.parametrize("make", [sample_anchors, sample_regions])
def test_a_picture_without_objects_has_background_alone(make):
    boxes = np.float32([OBJECT, OTHER])
    options = (
        dict(samples=4)
        if make is sample_anchors
        else dict(found=np.array([True, False]), samples=4)
    )
    found = make(KEY, boxes, truth=truth(), **options)
    negatives = 2 if make is sample_anchors else 1
    found = jax.device_get(found)
    assert found.valid.sum() == negatives and np.isfinite(found.deltas).all()
    assert not np.any(found.positive if make is sample_anchors else found.labels)


def test_regions_are_proposals_and_the_objects_themselves():
    proposals = np.float32(
        [[0.0, 0.0, 10.0, 12.0], [0.0, 0.0, 10.0, 25.0], [40.0, 40.0, 60.0, 60.0]]
    )
    there = np.array([True, True, False])
    found = sample_regions(
        KEY, proposals, there, truth(OBJECT, OTHER, categories=[4, 2]), samples=16
    )
    found = jax.device_get(found)
    rows = zip(found.boxes, found.labels, found.valid, strict=True)
    rows = {tuple(box): int(label) for box, label, valid in rows if valid}
    # The third proposal is padding, but the second object's own box is the same; the second's IoU is .4.
    assert rows == {tuple(OBJECT): 5, tuple(OTHER): 3, (0, 0, 10, 12): 5, (0, 0, 10, 25): 0}
    assert (found.labels[:3] > 0).all() and not found.labels[3:].any(), (
        "those that show an object come first"
    )
    for row in range(3):
        decoded = decode_boxes(found.deltas[row], found.boxes[row], STAGES[0].weights)
        np.testing.assert_allclose(decoded, [OBJECT, OTHER][int(found.matched[row])], atol=1e-4)


def test_a_quarter_of_the_regions_at_most_show_objects_and_crowds_none():
    proposals = np.tile(np.float32([OBJECT, [30.0, 0.0, 40.0, 10.0], CROWD]), (20, 1))
    found = sample_regions(
        KEY, proposals, np.ones(60, bool), truth(OBJECT, CROWD, crowd=(1,)), samples=16
    )
    found = jax.device_get(found)
    assert (found.labels > 0).sum() == 4 and found.valid.sum() == 16
    assert not np.any(np.all(found.boxes == CROWD, axis=1) & found.valid)


def test_nothing_flows_back_into_proposals():
    def total(proposals):
        found = sample_regions(KEY, proposals, jnp.ones(2, bool), truth(OBJECT), samples=4)
        return jnp.sum(found.boxes) + jnp.sum(found.deltas)

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(np.float32([OBJECT, OTHER])), 0)


def test_later_stages_of_a_cascade_ask_for_more_overlap_and_draw_nothing():
    """The IoU of boxes as wide as OBJECT and h high is 10 / h, .645 and .588; that of the shifted one .8."""
    shifted = [10 / 9, 0.0, 100 / 9, 10.0]
    boxes = np.float32(
        [[0, 0, 10, 15.5], [0, 0, 10, 17], OBJECT, shifted, OTHER, CROWD, [5, 5, 5, 30], OBJECT]
    )
    filled = np.arange(8) < 7
    wanted = truth(OBJECT, OTHER, CROWD, categories=[4, 2, 0], crowd=(2,))
    for stage, labels in ((STAGES[1], [5, 0, 5, 5, 3]), (STAGES[2], [0, 0, 5, 5, 3])):
        found = jax.device_get(match_refined_regions(boxes, filled, wanted, stage=stage))
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.labels[:5].tolist() == labels
        assert found.valid.tolist() == [True] * 5 + [False] * 3, (
            "in a crowd, without extent, not filled"
        )
        # The object lies a ninth of 10 pixels to the left, counted in sides.
        np.testing.assert_allclose(found.deltas[3], [-stage.weights[0] / 9, 0, 0, 0], atol=1e-5)
        np.testing.assert_allclose(
            decode_boxes(found.deltas[0], boxes[0], stage.weights), OBJECT, atol=1e-4
        )
    empty = jax.device_get(match_refined_regions(boxes, filled, truth(), stage=STAGES[1]))
    assert (
        not empty.labels.any()
        and empty.valid.tolist() == [True] * 6 + [False] * 2
        and np.isfinite(empty.deltas).all()
    )
