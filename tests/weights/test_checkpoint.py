import jax
import numpy as np
import pytest
from written_run import debug_variables, write_run

from segjax.models.build import variable_shapes
from segjax.models.sam.build import build_sam
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.safetensors import read_arrays, write_arrays
from segjax.weights.tables.sam import SAM
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import CheckpointError, flatten

DEBUG = {"model": {"name": "sam_debug"}}


def assert_same(found, want):
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize(
    "name, format, written",
    [
        ("x.safetensors", None, "segjax"),
        ("x.safetensors", "official", "official"),
        ("x.safetensors", "huggingface", "huggingface"),
        ("x.pth", None, "official"),
        ("x.bin", "huggingface", "huggingface"),
    ],
)
def test_every_file_tells_what_it_is_and_gives_back_what_went_in(tmp_path, name, format, written):
    said, arrays = write_checkpoint(
        tmp_path / name, debug_variables(), format=format, metadata=DEBUG
    )
    checkpoint = read_checkpoint(tmp_path / name)
    assert said == checkpoint.format == written
    assert arrays == len(jax.tree.leaves(debug_variables())) + (written == "huggingface")
    assert checkpoint.saved == (DEBUG if written == "segjax" else {})
    assert checkpoint.size == (
        {} if written == "segjax" else {"width": 32, "depth": 2, "patch": 16, "canvas": 64}
    )
    assert_same(checkpoint.variables(debug_variables()), debug_variables())


def test_transformers_finds_the_header_that_it_insists_on(tmp_path):
    write_checkpoint(
        tmp_path / "x.safetensors", debug_variables(), format="huggingface", metadata={}
    )
    assert read_arrays(tmp_path / "x.safetensors")[1] == {"format": "pt"}


def test_a_runs_folder_is_read_with_its_config(tmp_path):
    checkpoint = read_checkpoint(write_run(tmp_path))
    assert checkpoint.format == "segjax" and checkpoint.saved["model"]["name"] == "sam_debug"


def test_variables_come_in_the_type_of_the_model_and_are_copies(tmp_path):
    half = jax.tree.map(lambda x: x.astype(np.float16), debug_variables())
    write_checkpoint(tmp_path / "x.pth", half, metadata={})
    found = read_checkpoint(tmp_path / "x.pth").variables(debug_variables())
    assert_same(found, jax.tree.map(lambda x: x.astype(np.float32), half))
    assert all(
        x.dtype == np.float32 and x.flags.writeable and x.flags.c_contiguous
        for x in jax.tree.leaves(found)
    )


def test_weights_for_another_canvas_say_how_to_mend_it(tmp_path):
    write_checkpoint(tmp_path / "x.pth", debug_variables(), metadata={})
    larger = variable_shapes(build_sam("sam_debug", canvas=96))
    with pytest.raises(
        CheckpointError, match="3 misshapen: .*for another canvas: `segjax convert SRC DST --canvas"
    ):
        read_checkpoint(tmp_path / "x.pth").variables(larger)


def test_a_prefix_of_most_keys_and_values_beside_them(tmp_path, caplog):
    state = dict(SAM.to_published(debug_variables(), "official"))
    state = {f"sam_model.student.{key}": array for key, array in state.items()}
    write_torch(tmp_path / "x.pth", state | {"loss_fn.weight": np.ones(3), "step": np.array(3)})
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert_same(checkpoint.variables(debug_variables()), debug_variables())
    ignored = (
        "arrays outside the model's prefix 'sam_model.student.' are ignored (2: loss_fn.weight"
    )
    assert ignored in caplog.text


def test_numbers_beside_parameters_are_ignored_and_arrays_are_not(tmp_path, caplog):
    state = dict(SAM.to_published(debug_variables(), "official"))
    write_torch(tmp_path / "x.pth", state | {"best_iou": np.array(0.5)})
    found = read_checkpoint(tmp_path / "x.pth").variables(debug_variables())
    assert_same(found, debug_variables())
    assert "numbers beside the parameters are ignored (1: best_iou)" in caplog.text
    write_torch(tmp_path / "x.pth", state | {"extra_token": np.ones((1, 4))})
    with pytest.raises(CheckpointError, match="1 unexpected: extra_token"):
        read_checkpoint(tmp_path / "x.pth").variables(debug_variables())


def test_our_own_names_joined_with_dots_are_no_prefix(tmp_path):
    flat = {path.replace("/", "."): array for path, array in flatten(debug_variables()).items()}
    write_arrays(tmp_path / "x.safetensors", flat, {})
    checkpoint = read_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.format == "segjax"
    assert_same(checkpoint.variables(debug_variables()), debug_variables())
