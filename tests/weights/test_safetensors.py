import numpy as np
import pytest
from safetensors.numpy import save_file

from segjax.weights.safetensors import read_variables, save_variables, write_arrays
from segjax.weights.tree import CheckpointError, check_parameters, flatten, unflatten

VARIABLES = {
    "params": {
        "block_0": {
            "kernel": np.arange(6, dtype=np.float32).reshape(2, 3).T,
            "bias": np.float32([1, 2]),
        }
    },
    "constants": {"matrix": np.ones((2, 2), np.float32)},
}


def assert_same(found, want):
    found, want = flatten(found), flatten(want)
    assert found.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(found[name], want[name])


def test_a_file_gives_back_what_was_saved(tmp_path):
    path = tmp_path / "new" / "file.safetensors"
    save_variables(path, VARIABLES, {"model": {"name": "sam_tiny", "global_blocks": [1, 3]}})
    variables, metadata = read_variables(path)
    assert_same(variables, VARIABLES)
    assert metadata == {"model": {"name": "sam_tiny", "global_blocks": [1, 3]}}
    assert [p.name for p in path.parent.iterdir()] == ["file.safetensors"]


def test_names_may_be_joined_with_dots_and_constants_may_be_absent(tmp_path):
    save_file({"params.block_0.bias": np.ones(2, np.float32)}, tmp_path / "dots.safetensors")
    variables, metadata = read_variables(tmp_path / "dots.safetensors")
    assert_same(variables, {"params": {"block_0": {"bias": np.ones(2)}}, "constants": {}})
    assert metadata == {}


def test_a_file_may_be_read_by_whom_other_files_may_be_read(tmp_path):
    (tmp_path / "other").touch()
    write_arrays(tmp_path / "a.safetensors", {"x": np.zeros(3, np.float32)}, {})
    modes = [(tmp_path / name).stat().st_mode for name in ("other", "a.safetensors")]
    assert modes[0] == modes[1]


def test_a_save_that_fails_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "file.safetensors"
    save_variables(path, VARIABLES, {"first": True})
    with pytest.raises(TypeError):
        save_variables(path, VARIABLES, {"not JSON": object()})
    with pytest.raises(ValueError, match="'params'"):
        save_variables(path, VARIABLES["params"], {})
    assert read_variables(path)[1] == {"first": True}


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"image_encoder.pos_embed": np.ones(1)}, "found image_encoder.pos_embed"),
        ({"params/a": np.ones(1), "opt/a": np.ones(1)}, "not written by segjax"),
        ({"params/a": np.ones(1), "params/a/b": np.ones(1)}, "not written by segjax"),
        ({}, "no array at all"),
    ],
)
def test_somebody_elses_file_is_named_as_such(tmp_path, arrays, message):
    save_file(arrays, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_variables(tmp_path / "other.safetensors")


def test_flatten_and_unflatten_are_inverse_and_name_lists_by_place():
    assert_same(unflatten(flatten(VARIABLES)), VARIABLES)
    assert list(flatten({"a": [np.ones(1), None, {"b": np.ones(2)}]})) == ["a/0", "a/2/b"]
    assert flatten(None) == {}


def test_strict_comparison_lists_only_the_first_few_of_each_fault():
    want = {f"layer_{i}": np.zeros(i) for i in range(9)}
    check_parameters(want, {k: v.astype(np.float16) for k, v in want.items()}, source="x")
    with pytest.raises(CheckpointError) as error:
        check_parameters(
            want, {"layer_0": np.zeros(0), "layer_1": np.zeros(3)}, source="file x", first=2
        )
    text = str(error.value)
    assert "file x is of another architecture" in text
    assert "7 missing: layer_2 (2,), layer_3 (3,), ..." in text
    assert "1 misshapen: layer_1 is (3,), expected (1,)" in text and "unexpected" not in text
