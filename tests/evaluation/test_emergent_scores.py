"""Measures of unsupervised masks, by hand."""

import numpy as np
import pytest

from segjax.evaluation.zero_shot.emergent import (
    EmergentScores,
    compute_curve,
    compute_mask_iou,
    compute_max_f,
    is_localized,
    match_masks,
)


def block(rows, columns, hw=(10, 10)):
    mask = np.zeros(hw, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


LEFT, RIGHT = block((0, 10), (0, 5)), block((0, 10), (5, 10))


def test_matching_gives_each_object_one_mask():
    found = np.stack([LEFT, block((0, 10), (0, 10))])
    iou = compute_mask_iou(found, np.stack([LEFT, RIGHT]))
    np.testing.assert_allclose(iou, [[1, 0], [0.5, 0.5]])
    np.testing.assert_allclose(match_masks(found, np.stack([LEFT, RIGHT])), [1, 0.5])
    np.testing.assert_allclose(match_masks(found[:1], np.stack([RIGHT, LEFT])), [0, 1])
    assert match_masks(np.zeros((0, 10, 10), bool), found).tolist() == [0, 0]


def test_localization_at_half():
    truth = block((0, 4), (0, 10))[None]
    assert is_localized(block((0, 8), (0, 10)), truth)  # IoU 0.5 exactly
    assert not is_localized(block((0, 9), (0, 10)), truth)
    assert not is_localized(np.zeros((10, 10), bool), truth)


def test_curve_and_f():
    values = np.zeros((10, 10))
    values[:, :5], values[:, 5] = 1.0, 0.5
    precision, recall = compute_curve(values, LEFT)
    assert len(precision) == 255
    np.testing.assert_allclose(precision[[0, 126, 127, 128, 254]], [5 / 6, 5 / 6, 5 / 6, 1, 1])
    np.testing.assert_allclose(recall, 1)
    assert compute_max_f(precision, recall) == pytest.approx(1.0)
    # Half precision, full recall: 1.3 * 0.5 / (0.15 + 1)
    assert compute_max_f(np.array([0.5]), np.array([1.0])) == pytest.approx(0.65 / 1.15)


def test_sums_over_images():
    scores = EmergentScores()
    scores.add(np.stack([LEFT]), np.ones(1), np.stack([LEFT]))
    scores.add(np.zeros((0, 10, 10), bool), np.zeros(0), np.stack([RIGHT]))
    scores.add(np.stack([LEFT]), np.ones(1), np.zeros((0, 10, 10), bool))
    found = scores.compute()
    assert found["mIoU"] == 0.5 and found["CorLoc"] == 0.5 and found["AR@100"] == 0.5
    assert (found["images"], found["objects"], found["masks"]) == (2, 2, 1)
    with pytest.raises(ValueError, match="no image with an object"):
        EmergentScores().compute()
