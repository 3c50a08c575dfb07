"""TPU slices by name: shapes, chips and their rates."""

from types import SimpleNamespace

import pytest

from segjax.scaling import slices
from segjax.scaling.slices import SetupError, Slice, list_slices, parse_slice
from segjax.training.throughput import peak_tflops


@pytest.mark.parametrize(
    "name, kind, shape",
    [
        ("v5e-256", "v5e", (16, 16)),
        ("v5litepod-16", "v5e", (4, 4)),
        ("V6E-8", "v6e", (2, 4)),
        ("v5p-128", "v5p", (4, 4, 4)),  # the name counts cores, two per chip
        ("v4-8", "v4", (2, 2, 1)),
        ("v5p:4x4x8", "v5p", (4, 4, 8)),
    ],
)
def test_names_of_slices(name, kind, shape):
    assert parse_slice(name) == Slice(kind, shape)


def test_every_slice_is_parsed_from_its_name_and_has_that_many_chips():
    for name in list_slices():
        parsed, number = parse_slice(name), int(name.split("-")[1])
        assert parsed.name == name and parsed.chips == (
            number // 2 if parsed.kind in ("v4", "v5p") else number
        )
    assert str(parse_slice("v5p-128")) == "v5p-128: 64 chips, 4 x 4 x 4"
    two = parse_slice("v5e-256", 2)
    assert two.chips == 512 and str(two) == "v5e-256 x 2: 512 chips, 16 x 16 each"


@pytest.mark.parametrize(
    "name, message",
    [
        ("v5e-100", "no slice 'v5e-100'; of v5e there are v5e-1, v5e-4, .*v5e-256$"),
        ("v5p-64x", r"of v5p there are v5p-8, .*\(the number counts cores, two per chip\)"),
        ("v5-256", "no TPU of kind 'v5'.*did you mean v5"),
        ("256", "no TPU of kind '256'"),
        ("v5e", "no slice 'v5e'"),
        ("", "no TPU of kind ''"),
    ],
)
def test_an_unknown_slice_is_reported_with_the_existing_ones(name, message):
    with pytest.raises(ValueError, match=message):
        parse_slice(name)
    with pytest.raises(ValueError, match="slices is 0"):
        parse_slice("v5e-256", 0)


def test_peak_rates_agree_with_those_of_the_training_log():
    kinds = {
        "v4": "TPU v4",
        "v5e": "TPU v5 lite",
        "v5p": "TPU v5",
        "v6e": "TPU v6 lite",
    }  # as their compilers name them
    for kind, chip in slices.CHIPS.items():
        device = SimpleNamespace(device_kind=kinds[kind], platform="tpu")
        assert peak_tflops(device, "bfloat16") == chip.tflops


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(slices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"libtpu, which is not installed.*segjax\[tpu\]"):
        parse_slice("v5e-4").list_devices()
