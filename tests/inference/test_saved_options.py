"""Options of a model that a file states: one sentence before anything of that size is built."""

import json
import time
import types

import numpy as np
import pytest

from segjax.inference.detection.class_names import resolve_classes
from segjax.inference.loading import load
from segjax.inference.saved_options import read_saved_percentiles
from segjax.weights.safetensors import save_variables, write_arrays
from segjax.weights.tree import CheckpointError

ARRAYS = {"params": {"a": np.ones(2, np.float32)}}


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(canvas=0), "canvas is 0; expected a whole number of at least 1"),
        (dict(canvas="x"), "canvas is 'x'; expected a whole number"),
        (dict(canvas=None), "canvas is None; expected a whole number"),
        (dict(canvas=True), "canvas is True; expected a whole number"),
        (dict(canvas=float("nan")), "canvas is nan; expected a number"),
        (dict(canvas=10**6), "canvas is 1000000; expected a side of at most 16384 pixels"),
        (dict(canvas=16384, width=4096), "1024 x 1024 patches; expected at most"),
        (dict(canvas=[64, 0]), "canvas is a list of 2; expected a whole number of at least 1"),
        (dict(canvas={"a": 1}), "canvas is a mapping of 1; expected a whole number"),
        (dict(patch=3), "canvas 128 is not a multiple of the patch 3"),
        (dict(depth=10**9), "depth is 1000000000; expected a number of at most 1,000,000"),
        (dict(depth=1e9), "depth is 1000000000.0; expected"),
        (dict(depth=10**5), "depth is 100000; expected at most the number of its arrays, 1"),
        (dict(depth=10**200), "depth is a huge number; expected"),
        (dict(heads=0), "heads is 0; expected"),
        (dict(dtype="evil"), "dtype is 'evil'; expected one of float32, bfloat16"),
        (dict(dtype={"a": 1}), "dtype is a mapping of 1; expected one of float32"),
        (dict(global_blocks=[[0] * 2000]), "global_blocks is a list of 1; expected"),
        (dict(evil=1), r"Sam has no attribute \['evil'\]; nearest"),
        (dict(name=5), "its name is 5; expected text"),
        (dict(name=["a"]), "its name is a list of 1; expected text"),
        (dict(name="sam\nevil"), "unknown model"),
        (dict(name="maskrcnn_resnet50_fpn", classes=10**9), "classes is 1000000000; expected"),
        (dict(name="mae_tiny", decoder_depth=10**8), "decoder_depth is 100000000; expected"),
    ],
)
def test_impossible_options_are_refused_at_once(tmp_path, options, said):
    path = tmp_path / "file.safetensors"
    save_variables(path, ARRAYS, {"model": {"name": "sam_tiny"} | options})
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=said) as error:
        load(path)
    assert time.perf_counter() - start < 5
    assert "describes a model that cannot be built" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values", ["ab", [1], [1, 2, 3], [99, 1], [1, float("nan")], [-1, 5], {"a": 1}, 5, ["a", "b"]]
)
def test_percentiles_of_a_checkpoint_are_checked(values):
    with pytest.raises(CheckpointError, match="states percentiles .*; expected two increasing"):
        read_saved_percentiles({"data": {"percentiles": values}})
    assert read_saved_percentiles({"data": {"percentiles": [1, 99]}}) == (1.0, 99.0)
    assert read_saved_percentiles({"data": {"percentiles": ()}}) is None
    assert read_saved_percentiles({"data": 5}) is read_saved_percentiles({}) is None


@pytest.mark.parametrize(
    "classes",
    [5, ["a"], {"categories": ["a"]}, {"categories": "ab", "category_ids": [1, 2]}]
    + [{"categories": ["a"], "category_ids": [1.5]}, {"categories": [1], "category_ids": [1]}],
)
def test_damaged_class_names_are_said(classes):
    model = types.SimpleNamespace(classes=1, keypoints=0)
    with pytest.raises(ValueError, match="classes that the checkpoint states are damaged"):
        resolve_classes(model, {"classes": classes})
    named = {"categories": ["a"], "category_ids": [7]}
    assert resolve_classes(model, {"classes": named}).ids == (7,)


@pytest.mark.parametrize("metadata", ["[" * 100_000, "[1]", "{", json.dumps("text")])
def test_metadata_that_is_no_mapping_is_refused(tmp_path, metadata):
    header = {"format": "segjax", "metadata": metadata}
    write_arrays(tmp_path / "file.safetensors", {"params/a": np.ones(2)}, header)
    with pytest.raises(CheckpointError, match="was not written by segjax") as error:
        load(tmp_path / "file.safetensors")
    assert "\n" not in str(error.value)
