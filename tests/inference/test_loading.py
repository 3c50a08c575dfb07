import jax
import numpy as np
import pytest
from written_run import debug_variables, write_run

import segjax
from segjax.models.build import build_model
from segjax.weights.tree import CheckpointError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), ema=True, steps=(1, 2))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "debug.safetensors"
    segjax.save_variables(
        path, debug_variables(), {"model": {"name": "sam_debug", "drop_path": 0.25}}
    )
    return path


def assert_moved_by(found, amount):
    fresh = debug_variables()
    jax.tree.map(
        lambda f, x: np.testing.assert_array_equal(f, x + np.float32(amount)),
        found["params"],
        fresh["params"],
    )
    jax.tree.map(np.testing.assert_array_equal, found["constants"], fresh["constants"])


def test_a_run_says_itself_which_model_it_is_and_gives_its_newest_moving_average(run):
    model, variables = segjax.load(run)
    assert (model.canvas, model.width, model.drop_path) == (64, 32, 0.25)
    assert_moved_by(variables, 20)
    assert all(
        isinstance(x, jax.Array) and x.dtype == np.float32 for x in jax.tree.leaves(variables)
    )


def test_the_checkpoints_folder_and_an_earlier_step_load_too(run):
    assert_moved_by(segjax.load(str(run / "checkpoints"), step=1)[1], 10)


def test_the_checkpoint_kept_as_the_best_loads_by_that_name(tmp_path):
    numbers = {
        1: {"iou@1": 0.2},
        2: {"iou@1": 0.7},
        3: {"iou@1": 0.5},
    }  # and the last one is saved unmeasured
    run = write_run(tmp_path, steps=(1, 2, 3, 4), best="iou@1", numbers=numbers)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "3", "4"]
    assert_moved_by(segjax.load(run, step="best")[1], 2)
    assert_moved_by(segjax.load("sam_debug", run)[1], 4)


def test_a_run_that_kept_no_best_checkpoint_says_why(run, file, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"not told what to judge by \(config.checkpoint.best.*steps \[1, 2\]",
    ):
        segjax.load(run, step="best")
    with pytest.raises(FileNotFoundError, match=r"none of its steps \[2\] .* gave 'iou@1'"):
        segjax.load(write_run(tmp_path, best="iou@1", numbers={2: {"loss": 1.0}}), step="best")
    with pytest.raises(ValueError, match="single file, it has no step best"):
        segjax.load(file, step="best")


def test_a_run_without_moving_average_gives_its_parameters(tmp_path):
    assert_moved_by(segjax.load(write_run(tmp_path))[1], 2)


def test_by_name_the_saved_options_hold_and_overrides_come_on_top(run):
    model, _ = segjax.load("sam_debug", run, dtype="bfloat16")
    assert model.drop_path == 0.25 and model.dtype == np.dtype("bfloat16")


@pytest.mark.parametrize(
    "attention, here", [("pallas", "xla"), ("cudnn", "xla"), ("chunked", "chunked")]
)
def test_a_run_that_was_trained_with_the_kernel_of_other_devices_loads_without_it(
    tmp_path, attention, here
):
    path = tmp_path / "debug.safetensors"
    segjax.save_variables(
        path, debug_variables(), {"model": {"name": "sam_debug", "attention": attention}}
    )
    assert segjax.load(path)[0].attention == here
    assert segjax.load(path, attention="pallas")[0].attention == "pallas"  # what is asked for stays


def test_a_safetensors_file_loads_by_itself_and_by_name(file):
    alone, variables = segjax.load(file)
    assert alone.drop_path == 0.25
    assert_moved_by(variables, 0)
    named, variables = segjax.load("sam_debug", file)
    assert named == alone
    assert_moved_by(variables, 0)


def test_half_precision_files_become_float32(tmp_path):
    half = jax.tree.map(lambda x: x.astype(np.float16), debug_variables())
    segjax.save_variables(tmp_path / "half.safetensors", half, {})
    _, variables = segjax.load("sam_debug", tmp_path / "half.safetensors")
    for found, x in zip(jax.tree.leaves(variables), jax.tree.leaves(half), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, x.astype(np.float32))


def test_a_file_without_a_model_name_asks_for_one(tmp_path):
    segjax.save_variables(tmp_path / "nameless.safetensors", debug_variables(), {})
    with pytest.raises(CheckpointError, match="does not say which model it holds"):
        segjax.load(tmp_path / "nameless.safetensors")


def test_another_architecture_is_an_error_that_counts_and_lists_what_differs(run, file):
    with pytest.raises(
        CheckpointError, match=r"another architecture.*\d+ misshapen: image_encoder/.*expected \("
    ):
        segjax.load("sam_tiny", run)
    with pytest.raises(CheckpointError, match=r"\d+ missing: .*block_2"):
        segjax.load("sam_debug", file, depth=3)
    with pytest.raises(CheckpointError, match=r"\d+ unexpected: .*block_1"):
        segjax.load("sam_debug", file, depth=1, global_blocks=())


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (
            ("sam_tinny",),
            FileNotFoundError,
            "unknown model 'sam_tinny', and no file or folder of that name; nearest: sam_tiny",
        ),
        (("sam_tiny",), ValueError, "say which weights"),
        (("sam_tinny", "here"), ValueError, "unknown model 'sam_tinny'; nearest: sam_tiny"),
        (("SAM_Tiny",), ValueError, "'sam_tiny' is the name of an architecture"),
        (("runs/nowhere",), FileNotFoundError, "^no such file or folder: runs/nowhere$"),
        (("here.pth",), FileNotFoundError, "^no such file: here.pth$"),
        (
            ("elsewhere/sam_vit_b_01ec64.pth",),
            FileNotFoundError,
            r"no such file: elsewhere/.*; segjax.load\('sam_vit_b'\), or --checkpoint sam_vit_b",
        ),
        (("sam_tiny", "nowhere"), FileNotFoundError, "no such file or folder: nowhere"),
        (("sam_tiny", "nowhere.safetensors"), FileNotFoundError, "nowhere.safetensors"),
        (
            ("sam_vit_b", "sam_vit_b_01ec64.pth"),
            FileNotFoundError,
            "no such file: sam_vit_b_01ec64.pth",
        ),
    ],
)
def test_what_is_not_there_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        segjax.load(*arguments)


def test_what_is_no_checkpoint_is_named(tmp_path, file):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint in {tmp_path}"):
        segjax.load(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="notes.txt is a file of an unknown kind"):
        segjax.load(tmp_path / "notes.txt")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        CheckpointError,
        match=r"cut.safetensors \(1000 bytes\) is not a safetensors file, or is damaged",
    ):
        segjax.load("sam_debug", tmp_path / "cut.safetensors")


def test_a_misspelt_override_is_named(run):
    with pytest.raises(ValueError, match="no attribute.*dtyp"):
        segjax.load(run, dtyp="bfloat16")


def test_models_are_listed():
    assert {"sam_vit_b", "sam_vit_l", "sam_vit_h", "sam_tiny"} <= set(segjax.available_models())


@pytest.mark.parametrize(
    ("dtype", "hint"), [("bf16", "'bfloat16'"), ("fp16", "'float16'"), ("bfloat", "'bfloat16'")]
)
@pytest.mark.parametrize("model", ["sam_debug", "maskrcnn_debug", "mae_debug", "vit_debug"])
def test_an_unknown_dtype_is_an_error_that_names_the_nearest(model, dtype, hint):
    with pytest.raises(ValueError, match=f"expected one of float32, .*did you mean {hint}"):
        build_model(model, dtype=dtype)
    with pytest.raises(ValueError, match="dtype is 'int8'; expected one of float32"):
        build_model(model, dtype="int8")


def test_models_are_described(monkeypatch):
    described = segjax.available_models(details=True)
    assert list(described) == segjax.available_models()
    assert described["sam_vit_b"] == {
        "family": "SAM",
        "canvas": 1024,
        "encoder": "ViT 768 x 12, patch 16",
        "parameters": 93_735_472,
        "weights": True,
    }
    assert not described["maskrcnn_tiny"]["weights"]
