import jax
import numpy as np
import pytest
from greedy_suppression import greedy

from segjax.ops.boxes import box_iou
from segjax.ops.nms import nms

RNG = np.random.default_rng(0)


def stays(boxes, scores, threshold):
    return np.isin(np.arange(len(boxes)), greedy(boxes, scores, threshold))


def crowd(count, scores):
    corner = RNG.integers(0, 20, (count, 2))
    return np.concatenate([corner, corner + RNG.integers(1, 15, (count, 2))], 1).astype(np.float32), scores


def test_iou_of_pairs_by_hand():
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 9]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 4], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(box_iou(a, b), [[1 / 7, 0.5, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_equals_greedy_suppression(threshold):
    """Whole coordinates and few score levels: ties of scores, and overlaps that lie on a threshold."""
    suppress = jax.jit(nms)
    for _ in range(100):
        boxes, scores = crowd(40, RNG.integers(0, 8, 40).astype(np.float32))
        np.testing.assert_array_equal(suppress(boxes, scores, threshold), stays(boxes, scores, threshold))


def test_a_long_chain_of_suppressions():
    """Each box overlaps the next alone: every second one stays, which takes a round a box to settle."""
    boxes = np.array([[i, 0, i + 3, 1] for i in range(0, 200, 2)], np.float32)
    keep = np.asarray(nms(boxes, -np.arange(100, dtype=np.float32), 0.1))
    np.testing.assert_array_equal(keep, np.arange(100) % 2 == 0)


def test_padding_is_dropped_and_drops_nothing():
    boxes, scores = crowd(20, RNG.random(20).astype(np.float32))
    padded = np.concatenate([np.zeros((5, 4), np.float32), boxes, boxes[:3]])
    valid = np.array([False] * 5 + [True] * 20 + [False] * 3)
    keep = np.asarray(nms(padded, np.concatenate([np.full(5, 9.0), scores, np.full(3, 9.0)]), 0.4, valid))
    np.testing.assert_array_equal(keep[5:25], stays(boxes, scores, 0.4))
    assert not keep[~valid].any()


def test_no_boxes():
    assert nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5).shape == (0,)
