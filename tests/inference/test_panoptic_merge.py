"""The merge of instances and stuff, at its thresholds."""

import numpy as np
import pytest

from segjax.evaluation.panoptic import PanopticScores
from segjax.inference.perception.panoptic import merge_panoptic

STUFF = np.full((100, 100), 9)


def rows(start, stop):
    mask = np.zeros((100, 100), bool)
    mask[start:stop] = True
    return mask


def merge(masks, scores, semantic=STUFF, **options):
    return merge_panoptic(masks, scores, [1] * len(masks), semantic, {9}, **options)


def test_the_most_confident_instance_lies_on_top():
    ids, segments = merge([rows(0, 40), rows(30, 70)], [0.6, 0.9])
    assert [row["area"] for row in segments[:2]] == [4000, 3000]
    assert (ids[30:70] == 1).all() and (ids[:30] == 2).all()
    assert segments[0]["bbox"] == [0, 30, 100, 40] and segments[0]["score"] == 0.9


@pytest.mark.parametrize("covered, kept", [(20, True), (21, False)])
def test_half_of_an_instance_may_be_covered(covered, kept):
    """20 of 40 rows are exactly half."""
    _, segments = merge([rows(0, 40), rows(40 - covered, 80 - covered)], [0.9, 0.8])
    assert (sum(row["isthing"] for row in segments) == 2) == kept


@pytest.mark.parametrize("score, kept", [(0.5, True), (0.499, False)])
def test_scores_below_one_half_are_left_out(score, kept):
    _, segments = merge([rows(0, 10)], [score])
    assert any(row["isthing"] for row in segments) == kept


@pytest.mark.parametrize("pixels, kept", [(4096, True), (4095, False)])
def test_stuff_needs_enough_free_pixels(pixels, kept):
    semantic = np.zeros(10_000, int)
    semantic[:pixels] = 9
    _, segments = merge([], [], semantic.reshape(100, 100))
    assert bool(segments) == kept


def test_classes_of_things_in_the_map_are_not_used_and_void_stays():
    semantic = np.ones((100, 100), int)  # category 1 is a thing
    ids, segments = merge([rows(0, 10)], [0.9], semantic)
    assert len(segments) == 1 and not ids[10:].any()


def test_empty_and_covered_masks_are_skipped():
    masks = [rows(0, 40), rows(0, 0), rows(0, 40)]
    _, segments = merge(masks, [0.9, 0.95, 0.8], largest_overlap=1.0)
    assert sum(row["isthing"] for row in segments) == 1


def test_a_perfect_merge_has_pq_one():
    ids, segments = merge([rows(0, 30), rows(40, 60)], [0.9, 0.8])
    scores = PanopticScores({1: {"isthing": 1}, 9: {"isthing": 0}})
    scores.add(ids, segments, ids, segments)
    assert scores.summarize()["All"]["PQ"] == 1.0


def test_inputs_that_do_not_fit_are_told():
    for arguments, message in (
        (([rows(0, 5)], [0.9], [9], STUFF, {9}), "category 9 is of an instance and of stuff"),
        (([rows(0, 5)], [], [1], STUFF, {9}), "expected one of each"),
        (([np.ones((4, 4), bool)], [0.9], [1], STUFF, {9}), r"mask 0 is \(4, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            merge_panoptic(*arguments)
