"""segjax reads files written by segment-anything and transformers, and they read ours.

pytest -m parity tests/parity
"""

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.models.sam.build import build_sam, init_sam
from segjax.weights.checkpoint import write_checkpoint

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def variables():
    return drawn_variables(build_sam("sam_debug"), init_sam)


def reference(name, variables):
    from parity import sam_references

    try:
        return getattr(sam_references, name)(build_sam("sam_debug"), variables).sam
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


def assert_loads(path, variables):
    model, found = segjax.load(path)
    assert model == build_sam("sam_debug")
    jax.tree.map(np.testing.assert_array_equal, found, variables)


@pytest.mark.parametrize("archive", [True, False])
def test_segment_anythings_file_loads_bit_for_bit(torch, variables, tmp_path, archive):
    sam = reference("SegmentAnything", variables)
    torch.save(sam.state_dict(), tmp_path / "sam.pth", _use_new_zipfile_serialization=archive)
    assert_loads(tmp_path / "sam.pth", variables)


def test_segment_anything_reads_our_file_strictly(torch, variables, tmp_path):
    sam = reference("SegmentAnything", jax.tree.map(np.zeros_like, variables))
    write_checkpoint(tmp_path / "sam.pth", variables, metadata={})
    sam.load_state_dict(torch.load(tmp_path / "sam.pth", weights_only=True), strict=True)
    want = reference("SegmentAnything", variables).state_dict()
    assert all(torch.equal(sam.state_dict()[key], want[key]) for key in want)


def test_transformers_folder_loads_bit_for_bit(torch, variables, tmp_path):
    reference("Transformers", variables).save_pretrained(tmp_path)
    assert_loads(tmp_path / "model.safetensors", variables)


def test_transformers_reads_our_file_without_a_warning(torch, variables, tmp_path):
    sam = reference("Transformers", variables)
    sam.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_checkpoint(tmp_path / "model.safetensors", variables, format="huggingface", metadata={})
    loaded, report = type(sam).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    want, found = sam.state_dict(), loaded.state_dict()
    assert want.keys() == found.keys() and all(torch.equal(found[key], want[key]) for key in want)
