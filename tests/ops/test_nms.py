import jax
import jax.numpy as jnp
import numpy as np
import pytest
from greedy_suppression import greedy

from segjax.ops.boxes import box_iou
from segjax.ops.nms import nms, select_best

RNG = np.random.default_rng(0)
SLOTS = 16
suppress = jax.jit(nms)


def kept(boxes, scores, threshold, categories=None):
    """Returns the kept boxes. Inputs are padded to one size, which is compiled once."""
    more = SLOTS - len(boxes)
    boxes, scores = np.pad(boxes, ((0, more), (0, 0))), np.pad(scores, (0, more))
    categories = np.zeros(SLOTS, int) if categories is None else np.pad(categories, (0, more))
    return np.asarray(
        suppress(boxes, scores, threshold, np.arange(SLOTS) < SLOTS - more, categories)
    )[: SLOTS - more]


def stays(boxes, scores, threshold):
    return np.isin(np.arange(len(boxes)), greedy(boxes, scores, threshold))


def crowd(count, scores):
    corner = RNG.integers(0, 20, (count, 2))
    return np.concatenate([corner, corner + RNG.integers(1, 15, (count, 2))], 1).astype(
        np.float32
    ), scores


def hard_case(rng, count=12, categories=3):
    """Draws integer coordinates and few scores: overlaps at thresholds, ties, chains, padding."""
    low = rng.integers(0, 8, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 7, (count, 2))], 1).astype(np.float32)
    scores = rng.integers(0, 6, count).astype(np.float32)
    return boxes, scores, rng.random(count) < 0.85, rng.integers(0, categories, count)


def plain_suppression(boxes, scores, threshold, valid, category):
    keep = np.zeros(len(boxes), bool)
    for group in np.unique(category):
        places = np.flatnonzero(valid & (category == group))
        keep[places[greedy(boxes[places], scores[places], threshold)]] = True
    return keep


def equals_greedy_on(cases, threshold):
    rng = np.random.default_rng(1)
    parts = [hard_case(rng) for _ in range(cases)]
    stacked = [np.stack(part) for part in zip(*parts, strict=True)]
    boxes, scores, valid, category = stacked
    several = jax.jit(jax.vmap(lambda b, s, v, c: nms(b, s, threshold, v, c)))
    found = np.asarray(several(boxes, scores, valid, category))
    for case, (box, score, usable, group) in enumerate(parts):
        wanted = plain_suppression(box, score, np.float32(threshold), usable, group)
        np.testing.assert_array_equal(found[case], wanted, err_msg=f"case {case}")


def test_iou_of_pairs_by_hand():
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 9]], np.float32)
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 4], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(box_iou(a, b), [[1 / 7, 0.5, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_equals_greedy_suppression(threshold):
    """Integer coordinates and few score levels give ties and overlaps exactly at a threshold."""
    for _ in range(100):
        boxes, scores = crowd(40, RNG.integers(0, 8, 40).astype(np.float32))
        np.testing.assert_array_equal(
            suppress(boxes, scores, threshold), stays(boxes, scores, threshold)
        )


def test_a_long_chain_of_suppressions():
    """Each box overlaps only the next. Every second box stays, after as many rounds as boxes."""
    boxes = np.array([[i, 0, i + 3, 1] for i in range(0, 200, 2)], np.float32)
    keep = np.asarray(suppress(boxes, -np.arange(100, dtype=np.float32), 0.1))
    np.testing.assert_array_equal(keep, np.arange(100) % 2 == 0)


def test_padding_is_dropped_and_suppresses_nothing():
    boxes, scores = crowd(20, RNG.random(20).astype(np.float32))
    padded = np.concatenate([np.zeros((5, 4), np.float32), boxes, boxes[:3]])
    valid = np.array([False] * 5 + [True] * 20 + [False] * 3)
    keep = np.asarray(
        suppress(padded, np.concatenate([np.full(5, 9.0), scores, np.full(3, 9.0)]), 0.4, valid)
    )
    np.testing.assert_array_equal(keep[5:25], stays(boxes, scores, 0.4))
    assert not keep[~valid].any()


def test_no_boxes():
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5).shape == (0,)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_equals_greedy_with_categories_and_padding(threshold):
    equals_greedy_on(60, threshold)


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_equals_greedy_on_ten_thousand_cases(threshold):
    equals_greedy_on(10_000, threshold)


def test_three_boxes_in_a_chain():
    """IoUs are 0.4, 0.4 and 0.077. The first suppresses the second, which keeps the third.

    The tiled suppression of the TensorFlow models tests against .5 within a tile and loses the
    third.
    """
    step = 3 / 7  # of the side: IoU (1 - step) / (1 + step) = .4
    boxes = np.array([[k * step, 0, k * step + 1, 1] for k in range(3)], np.float32)
    np.testing.assert_allclose(box_iou(boxes, boxes)[0], [1, 0.4, 1 / 13], rtol=1e-5)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    np.testing.assert_array_equal(kept(boxes, scores, 0.3), [True, False, True])
    np.testing.assert_array_equal(
        kept(boxes[[2, 0, 1]], scores[[2, 0, 1]], 0.3), [True, True, False]
    )


def test_an_overlap_of_exactly_the_threshold_suppresses_nothing():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 2, 1]], np.float32)  # IoU 1/2
    np.testing.assert_array_equal(kept(boxes, np.array([2.0, 1.0]), 0.5), [True, True])
    np.testing.assert_array_equal(
        kept(boxes, np.array([2.0, 1.0]), np.nextafter(np.float32(0.5), 0)), [True, False]
    )


def test_half_precision_boxes_give_the_result_of_float32():
    """Three near duplicates, from torchvision's test in half precision."""
    boxes = np.array(
        [[285.3538, 185.5758, 1193.5110, 851.4551], [285.1472, 188.7374, 1192.4984, 851.0669]]
        + [[279.2440, 197.9812, 1189.4746, 849.2019]],
        np.float32,
    )
    scores = np.array([0.6370, 0.7569, 0.3966], np.float32)
    for kind in (np.float32, np.float16, jnp.bfloat16):
        np.testing.assert_array_equal(
            kept(boxes.astype(kind), scores.astype(kind), 0.2), [False, True, False]
        )


def test_of_equal_boxes_and_scores_the_first_stays():
    boxes = np.tile(np.array([[1, 1, 5, 5]], np.float32), (4, 1))
    np.testing.assert_array_equal(kept(boxes, np.ones(4), 0.5), [True, False, False, False])


def test_boxes_that_are_not_finite_are_dropped_and_suppress_nothing():
    boxes = np.tile(np.array([[1, 1, 5, 5]], np.float32), (6, 1))
    boxes[0, 2], boxes[1, 0], boxes[2, 3] = np.nan, -np.inf, np.inf
    scores = np.array([9, 8, 7, np.nan, -np.inf, 1], np.float32)
    np.testing.assert_array_equal(kept(boxes, scores, 0.5), np.arange(6) == 5)


def test_boxes_suppress_their_own_category_only():
    boxes = np.tile(np.array([[1, 1, 5, 5]], np.float32), (5, 1))
    keep = kept(boxes, np.arange(5.0), 0.5, categories=np.array([7, 0, 7, 0, 3]))
    np.testing.assert_array_equal(keep, [False, False, True, True, True])


def test_levels_are_suppressed_apart_and_ranked_together():
    """As for region proposals: suppression within each level, then the best of all levels."""
    rng = np.random.default_rng(3)
    low = rng.uniform(0, 30, (3, 15, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 20, (3, 15, 2))], -1).astype(np.float32)
    scores, valid = rng.normal(size=(3, 15)).astype(np.float32), rng.random((3, 15)) < 0.8

    @jax.jit
    def proposals(boxes, scores, valid):
        keep = jax.vmap(lambda b, s, v: nms(b, s, 0.3, v))(boxes, scores, valid)
        return select_best(keep.reshape(-1), scores.reshape(-1), 10)

    index, found = proposals(boxes, scores, valid)
    wanted = [
        level * 15 + place
        for level in range(3)
        for place in np.flatnonzero(valid[level])[
            greedy(*(a[level][valid[level]] for a in (boxes, scores)), 0.3)
        ]
    ]
    wanted.sort(key=lambda place: -scores.reshape(-1)[place])
    assert found.all() and len(wanted) > 10
    np.testing.assert_array_equal(index, wanted[:10])


def test_unfilled_slots():
    index, found = select_best(np.array([False, True, False, True]), np.array([9.0, -3, 8, -1]), 6)
    np.testing.assert_array_equal(index, [3, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(found, [True, True] + [False] * 4)
    assert index.dtype == jnp.int32
    assert not select_best(np.zeros(0, bool), np.zeros(0, np.float32), 2)[1].any()


def test_order_of_the_boxes_does_not_matter():
    boxes, scores = crowd(SLOTS, RNG.permutation(SLOTS).astype(np.float32))
    order = RNG.permutation(SLOTS)
    np.testing.assert_array_equal(
        kept(boxes[order], scores[order], 0.4), kept(boxes, scores, 0.4)[order]
    )
