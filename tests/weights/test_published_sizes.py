"""Published sizes through published files and back, to the byte."""

import gc
import json
import pathlib

import jax
import numpy as np
import pytest

from segjax.models.build import variable_shapes
from segjax.models.sam.build import build_sam
from segjax.weights.checkpoint import read_checkpoint, write_checkpoint
from segjax.weights.names import HUGGINGFACE, OFFICIAL
from segjax.weights.tables.sam import SAM
from segjax.weights.tree import flatten


@pytest.fixture
def folder(tmp_path):
    """Yields a folder and empties it, because pytest would keep gigabytes of files."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()
    gc.collect()


def assert_same_bytes(found, want):
    assert found.keys() == want.keys()
    for key, array in want.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape), key
        bits = (np.ascontiguousarray(x).view(np.uint32) for x in (found[key], array))
        assert np.array_equal(*bits), key


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name, file, manifest",
    [
        ("sam_vit_b", "sam.pth", "sam_vit_b"),
        # test_sam_names.py compares names and shapes of this file with its manifest.
        pytest.param("sam_vit_b", "model.safetensors", "hf_sam_vit_base", marks=pytest.mark.slow),
        pytest.param("sam_vit_l", "sam.pth", "sam_vit_l", marks=pytest.mark.slow),
        pytest.param("sam_vit_h", "sam.pth", "sam_vit_h", marks=pytest.mark.slow),
    ],
)
def test_every_array_comes_back_to_the_byte(name, file, manifest, folder, real_data):
    """Goes from our variables to a state dict, to a file, and back."""
    published = json.loads((real_data("reference_manifests") / f"{manifest}.json").read_text())
    format = OFFICIAL if pathlib.Path(file).suffix == ".pth" else HUGGINGFACE
    expected = variable_shapes(build_sam(name))
    rng = np.random.default_rng(0)
    ours = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32) - np.float32(0.5), expected)

    write_checkpoint(folder / file, ours, format=format, metadata={})
    read = read_checkpoint(folder / file)
    assert read.format == format
    assert {
        key: [list(array.shape), array.dtype.name] for key, array in read.arrays.items()
    } == published
    assert_same_bytes(read.arrays, SAM.to_published(ours, format))
    assert_same_bytes(flatten(read.variables(expected)), flatten(ours))
