"""Repeat factor sampling, with factors computed by hand."""

import collections

import numpy as np
import pytest

from segjax.data.repeat_factor import RepeatFactorSource, compute_repeat_factors


def records(*classes):
    return [
        {"image_id": str(n), "objects": {"category": np.array(some, int)}}
        for n, some in enumerate(classes)
    ]


def test_an_image_is_repeated_by_the_factor_of_its_rarest_class():
    # Class 0 is in 4 of 8 images, class 1 in one: sqrt(0.5 / 0.5) and sqrt(0.5 / 0.125).
    classes = [{0}, {0}, {0, 1}, {0}, set(), set(), set(), set()]
    assert compute_repeat_factors(classes, 0.5).tolist() == [1, 1, 2, 1, 1, 1, 1, 1]
    assert compute_repeat_factors(classes, 0.01).tolist() == [1] * 8
    assert compute_repeat_factors([set(), set()], 0.5).tolist() == [1, 1]


def test_each_image_comes_as_often_as_its_factor_to_within_one():
    source = records([0], [0], [0, 1], [0], [2], [2], [0, 0], [])
    repeated = RepeatFactorSource(source, 0.3)
    factors = compute_repeat_factors([{0}, {0}, {0, 1}, {0}, {2}, {2}, {0}, set()], 0.3)
    assert factors[2] == pytest.approx(np.sqrt(0.3 * 8)) and factors[4] == pytest.approx(
        np.sqrt(0.3 * 4)
    )
    counts = collections.Counter(repeated[i]["image_id"] for i in range(len(repeated)))
    assert len(repeated) == round(factors.sum()) == 9
    for name, factor in enumerate(factors):
        assert np.floor(factor) <= counts[str(name)] <= np.ceil(factor)
    with pytest.raises(IndexError, match=f"image {len(repeated)} of {len(repeated)}"):
        repeated[len(repeated)]
    with pytest.raises(ValueError, match=r"lies in 0 .. 1, got 0"):
        RepeatFactorSource(source, 0)
