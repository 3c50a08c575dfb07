"""Stored numbers of parameters."""

import pytest

from segjax.models.build import model_sizes
from segjax.models.parameter_counts import (
    PARAMETER_COUNTS,
    count_parameters,
    trace_parameter_count,
)
from segjax.registry import FAMILIES

OWN = [name for family in FAMILIES.entries for name in FAMILIES.get(family).sizes]
SMALL = [name for name in OWN if name.endswith(("_debug", "_tiny")) and "maskrcnn" not in name]


def test_every_model_has_a_stored_number():
    assert list(PARAMETER_COUNTS) == OWN


@pytest.mark.parametrize(
    "name",
    [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in OWN],
)
def test_the_stored_number_is_the_traced_one(name):
    assert count_parameters(name) == trace_parameter_count(name)


def test_a_model_that_is_not_stored_is_traced(monkeypatch):
    monkeypatch.delitem(PARAMETER_COUNTS, "sam_debug")
    assert "sam_debug" in model_sizes() and count_parameters("sam_debug") == 102_956
