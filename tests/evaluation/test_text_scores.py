"""cgF1 by hand."""

import numpy as np
import pytest

from segjax.evaluation.zero_shot.concept_prompts import ConceptScores

TOP, BOTTOM = np.zeros((2, 8, 8), bool)
TOP[:4], BOTTOM[4:] = True, True


def test_perfect_answers_and_silence_have_one():
    scores = ConceptScores()
    for predictions, truth in (([TOP], [TOP]), ([BOTTOM], [BOTTOM]), ([], []), ([], [])):
        scores.add(predictions, truth)
    assert scores.summarize("text") == {"text_cgf1": 1.0, "text_pmf1": 1.0, "text_il_mcc": 1.0}


def test_an_answer_to_an_absent_phrase_costs_correlation_alone():
    scores = ConceptScores()
    for predictions, truth in (([TOP], [TOP]), ([BOTTOM], [BOTTOM]), ([], []), ([TOP], [])):
        scores.add(predictions, truth)
    found = scores.summarize("text")
    assert found["text_pmf1"] == 1.0
    assert found["text_cgf1"] == pytest.approx(2 / np.sqrt(3 * 2 * 2 * 1))  # 0.57735


def test_matches_are_one_to_one_and_depend_on_the_threshold():
    scores, rough = ConceptScores(), TOP.copy()
    rough[3, :] = False  # IoU 0.75
    scores.add([rough, TOP[::-1]], [TOP])
    scores.add([], [])
    # One of two predictions matches at IoU 0.5 to 0.75: F1 = 2 * 1 / (2 + 1) at 6 of 10 thresholds
    assert scores.summarize("text")["text_pmf1"] == pytest.approx(0.6 * 2 / 3)
    assert ConceptScores().summarize("text") == {}


def test_one_sided_data_has_no_correlation():
    scores = ConceptScores()
    scores.add([TOP], [TOP])
    assert scores.summarize("text")["text_il_mcc"] == 0.0
