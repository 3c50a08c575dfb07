import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import boxes, matching
from segjax.ops.matching import match_boxes

# detectron2's tests/modeling/test_matcher.py: three objects and four anchors.
QUALITY = np.array(
    [[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]], np.float32
)
ALL = np.ones(3, bool)
match = jax.jit(match_boxes, static_argnums=(2, 3, 4))
is_in_crowd, box_iou = jax.jit(matching.is_in_crowd), jax.jit(boxes.box_iou)


def plain(iou, valid, low, high, force):
    """Matches by loops."""
    index, label = np.zeros(iou.shape[1], int), np.zeros(iou.shape[1], int)
    rows = np.flatnonzero(valid)
    for anchor in range(iou.shape[1]) if len(rows) else ():
        index[anchor] = max(rows, key=lambda row: (iou[row, anchor], -row))
        value = iou[index[anchor], anchor]
        label[anchor] = 1 if value >= high else -1 if value >= low else 0
        if force and any(iou[row, anchor] == iou[row].max() > 0 for row in rows):
            label[anchor] = 1
    return index, label


def assert_matches(found, index, label):
    np.testing.assert_array_equal(found[0], index)
    np.testing.assert_array_equal(found[1], label)
    assert found[0].dtype == found[1].dtype == jnp.int32


def test_an_example_of_detectron2():
    assert_matches(match(QUALITY, ALL, 0.3, 0.7, True), [1, 1, 2, 0], [-1, 1, 0, 1])


def test_without_force_a_low_overlap_is_negative():
    assert_matches(match(QUALITY, ALL, 0.3, 0.7, False), [1, 1, 2, 0], [-1, -1, 0, -1])


def test_thresholds_belong_to_the_class_above():
    assert_matches(
        match(np.array([[0.3, 0.7]], np.float32), ALL[:1], 0.3, 0.7, False), [0, 0], [-1, 1]
    )


def test_all_ties_are_forced():
    iou = np.array([[0.2, 0.2, 0.1, 0.2]], np.float32)
    assert_matches(match(iou, ALL[:1], 0.3, 0.7, True), [0] * 4, [1, 1, 0, 1])


def test_a_forced_anchor_keeps_its_own_best_object():
    """The anchor is the best one of object 0, but overlaps object 1 more."""
    iou = np.array([[0.2, 0.1], [0.25, 0.6]], np.float32)
    assert_matches(match(iou, ALL[:2], 0.3, 0.5, True), [1, 1], [1, 1])


@pytest.mark.parametrize("force", [False, True])
def test_padding_neither_matches_nor_forces(force):
    """A padding box overlaps nothing, and 0 would be the best overlap of its row."""
    padded = np.concatenate([np.zeros((2, 4)), QUALITY, np.ones((1, 4))]).astype(np.float32)
    valid = np.array([False, False, True, True, True, False])
    index, label = match(padded, valid, 0.3, 0.7, force)
    assert_matches((index - 2, label), *match(QUALITY, ALL, 0.3, 0.7, force))


def test_an_object_without_overlap_forces_no_anchor():
    assert_matches(match(np.zeros((1, 3), np.float32), ALL[:1], 0.3, 0.7, True), [0] * 3, [0] * 3)


@pytest.mark.parametrize("objects", [0, 4])
def test_without_objects_all_anchors_are_negative(objects):
    iou = np.ones((objects, 5), np.float32)
    assert_matches(match(iou, np.zeros(objects, bool), 0.3, 0.7, True), [0] * 5, [0] * 5)


def test_no_anchors():
    index, label = match(np.zeros((2, 0), np.float32), ALL[:2], 0.3, 0.7, True)
    assert index.shape == label.shape == (0,)


def test_negatives_in_a_crowd_are_ignored_and_positives_are_not():
    anchors = np.array(
        [[0, 0, 10, 10], [8, 8, 16, 16], [40, 40, 50, 50], [60, 60, 70, 70], [5, 0, 15, 10]],
        np.float32,
    )
    crowds = np.array([[0, 0, 10, 10], [36, 36, 52, 45], [55, 55, 80, 80]], np.float32)
    inside = is_in_crowd(anchors, crowds, np.array([True, True, False]))
    np.testing.assert_array_equal(inside, [True, False, True, False, True])  # half of it is enough
    truth = anchors[:1]
    index, label = match(box_iou(truth, anchors), ALL[:1], 0.3, 0.7, True, inside)
    np.testing.assert_array_equal(label, [1, 0, -1, 0, -1])


@pytest.mark.parametrize("force", [False, True])
def test_equals_matching_by_loops(force):
    """Integer coordinates give ties and overlaps at a threshold. Images differ in padding."""
    rng = np.random.default_rng(0)
    truth, anchors = (rng.integers(0, 12, (6, count, 2)) for count in (5, 40))
    truth, anchors = (
        np.concatenate([low, low + rng.integers(1, 9, low.shape)], -1) for low in (truth, anchors)
    )
    valid = rng.random((6, 5)) < 0.6
    overlaps = np.asarray(jax.jit(jax.vmap(box_iou))(truth, anchors))
    several = jax.jit(jax.vmap(lambda iou, valid: match_boxes(iou, valid, 0.25, 0.5, force)))
    index, label = several(overlaps, valid)
    inside = jax.jit(
        jax.vmap(lambda a, b, valid: match_boxes(box_iou(a, b), valid, 0.25, 0.5, force))
    )
    np.testing.assert_array_equal(
        inside(truth, anchors, valid)[1], label
    )  # overlaps worked out in the same program
    for image in range(6):
        assert_matches(
            (index[image], label[image]),
            *plain(np.asarray(overlaps[image]), valid[image], 0.25, 0.5, force),
        )
