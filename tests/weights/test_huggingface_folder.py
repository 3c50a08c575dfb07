"""Folders as Hugging Face publishes them: one file or shards, and a config that has to fit."""

import json

import jax
import numpy as np
import pytest

import segjax
from segjax.models.build import build_model, variable_shapes
from segjax.weights.checkpoint import write_checkpoint
from segjax.weights.safetensors import read_arrays, write_arrays
from segjax.weights.tree import CheckpointError

CONFIG = {
    "model_type": "sam",
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "patch_size": 16,
        "image_size": 64,
    },
}


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    shapes = variable_shapes(build_model("sam_debug"))
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)


@pytest.fixture
def folder(variables, tmp_path):
    write_checkpoint(tmp_path / "model.safetensors", variables, format="huggingface", metadata={})
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def split_in_shards(folder, **changes):
    arrays, _ = read_arrays(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, places = sorted(arrays), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        write_arrays(folder / file, {name: arrays[name] for name in part}, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places} | changes
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def check_equal(folder, variables):
    _, loaded = segjax.load("sam_debug", folder)
    jax.tree.map(np.testing.assert_array_equal, dict(loaded), variables)


def test_a_folder_with_one_file_is_loaded(folder, variables):
    check_equal(folder, variables)


def test_files_of_torch_are_loaded(folder, variables):
    (folder / "model.safetensors").unlink()
    write_checkpoint(folder / "pytorch_model.bin", variables, format="huggingface", metadata={})
    check_equal(folder, variables)


def test_shards_are_joined(folder, variables):
    split_in_shards(folder)
    check_equal(folder, variables)


def test_a_config_of_another_model_is_refused(folder):
    other = CONFIG | {"vision_config": CONFIG["vision_config"] | {"image_size": 1024}}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(CheckpointError, match="says image_size 1024, but the arrays have 64"):
        segjax.load("sam_debug", folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        segjax.load("sam_debug", folder)


def test_incomplete_and_dangerous_indexes_are_refused(folder):
    split_in_shards(folder)
    (folder / "model-1.safetensors").rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match="names the shard model-1.safetensors, which is miss"):
        segjax.load("sam_debug", folder)
    index = folder / "model.safetensors.index.json"
    for name in ("../model.safetensors", "/etc/passwd", "..", "a\\b"):
        index.write_text(json.dumps({"weight_map": {"x": name}}))
        with pytest.raises(CheckpointError, match="outside of its folder"):
            segjax.load("sam_debug", folder)
    index.write_text(json.dumps({"weight_map": {"not.there": "model-0.safetensors"}}))
    with pytest.raises(CheckpointError, match="promises 1 arrays that no shard holds, such as not"):
        segjax.load("sam_debug", folder)
    index.write_text(json.dumps({"weight_map": [1]}))
    with pytest.raises(CheckpointError, match="has no .weight_map."):
        segjax.load("sam_debug", folder)


def test_another_model_and_a_step_are_refused(folder):
    with pytest.raises(ValueError, match="has no step 3"):
        segjax.load("sam_debug", folder, step=3)
    write_arrays(folder / "model.safetensors", {"a.b": np.zeros(2)}, {})
    with pytest.raises(CheckpointError, match="holds no model that segjax has: its 1 arrays"):
        segjax.load("sam_debug", folder)
