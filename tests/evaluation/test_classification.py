"""Classification accuracy: cases counted by hand."""

import numpy as np
import pytest

from segjax.evaluation.classification import ClassificationScores


def test_summary_of_a_case_counted_by_hand():
    """Six classes. Two batches hold four images of class 0, one of class 5, and a placeholder."""
    scores = ClassificationScores(6)
    order = np.array([[6.0, 5, 4, 3, 2, 1]])  # class 0 first, class 5 last
    scores.add(
        np.repeat(order, 3, 0), np.array([0, 0, 1]), np.array([1.0, 2.0, 50.0]), np.array([1, 1, 0])
    )
    scores.add(
        np.repeat(order[:, ::-1], 3, 0), np.array([0, 0, 5]), np.array([3.0, 4.0, 5.0]), np.ones(3)
    )
    assert scores.count == 5 and scores.confusion[0].tolist() == [2, 0, 0, 0, 0, 2]
    expected = dict(
        eval_loss=3.0, top1=3 / 5, top5=3 / 5, per_class=(1 / 2 + 1) / 2, commonest=4 / 5
    )
    assert scores.summarize() == pytest.approx(expected)


def test_few_classes_have_no_top5():
    scores = ClassificationScores(5)
    scores.add(np.eye(5), np.arange(5), np.zeros(5), np.ones(5))
    assert scores.summarize() == dict(eval_loss=0.0, top1=1.0, per_class=1.0, commonest=0.2)
