"""Loading detectors: torchvision's .pth, detectron2's .pkl, runs with other parts frozen, and what does not go."""

import pickle

import jax
import numpy as np
import pytest
from golden.drawn_weights import drawn_variables

import segjax
from segjax.cli import main
from segjax.models.build import build_model, init_model
from segjax.models.detection.build import SIZES
from segjax.weights.checkpoint import write_checkpoint
from segjax.weights.tables.detectron2 import DETECTRON2_DETECTORS
from segjax.weights.tables.torchvision import TORCHVISION_DETECTORS, TORCHVISION_RESNETS
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import CheckpointError, match_collections

# Small detectors of either library, to be known by the names of their arrays as the published ones are.
DEBUG = {
    "debug_tv": dict(conventions="torchvision"),
    "debug_tv_boxes": dict(conventions="torchvision", mask_convs=0, keypoints=0),
    "debug_d2": dict(conventions="detectron2"),
    "debug_d2_cascade": dict(conventions="detectron2", box_stages=3, agnostic_boxes=True),
}


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    small = SIZES["maskrcnn_debug"]
    for name in list(SIZES):
        monkeypatch.delitem(SIZES, name)
    for name, options in DEBUG.items():
        monkeypatch.setitem(SIZES, name, small | options)


def drawn(name, **options):
    return drawn_variables(build_model(name, **options), init_model)


def assert_same(found, want):
    jax.tree.map(np.testing.assert_array_equal, found, want)


def written(path, name, **options):
    variables = drawn(name, **options)
    if path.suffix == ".pkl":
        state = DETECTRON2_DETECTORS.to_published(variables, "detectron2")
        anchors = {
            "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32)
        }
        path.write_bytes(
            pickle.dumps({"model": state | anchors, "__author__": "Detectron2 Model Zoo"})
        )
    else:
        write_torch(path, TORCHVISION_DETECTORS.to_published(variables, "torchvision"))
    return variables


@pytest.mark.parametrize(
    "name, file",
    [
        ("debug_tv", "tv.pth"),
        ("debug_tv_boxes", "tv.pth"),
        ("debug_d2", "d2.pkl"),
        ("debug_d2_cascade", "d2.pkl"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_by_name_and_by_itself(tmp_path, name, file, named):
    variables = written(tmp_path / file, name)
    model, found = segjax.load(*[name] * named, tmp_path / file)
    assert model == build_model(name)
    assert_same(found, variables)


def test_how_many_classes_there_are_is_read_off(tmp_path):
    variables = written(tmp_path / "own.pth", "debug_tv", classes=5)
    model, found = segjax.load("debug_tv", tmp_path / "own.pth")
    assert model.classes == 5
    assert_same(found, variables)


def test_frozen_or_not_a_checkpoint_is_the_same(tmp_path):
    metadata = {"model": {"name": "debug_tv", "freeze_at": 2}}
    variables = drawn("debug_tv", freeze_at=2)
    write_checkpoint(tmp_path / "run.safetensors", variables, metadata=metadata)
    model, found = segjax.load(tmp_path / "run.safetensors")
    assert model.freeze_at == 2 and "stem" not in found["params"]["backbone"]
    assert_same(found, variables)
    model, found = segjax.load(tmp_path / "run.safetensors", freeze_at=0)
    assert_same(found, match_collections(variables, drawn("debug_tv")))
    assert "kernel" in found["params"]["backbone"]["stem"]


def test_the_other_library_s_file_is_refused_by_name(tmp_path):
    written(tmp_path / "d2.pkl", "debug_d2")
    with pytest.raises(CheckpointError) as error:
        segjax.load("debug_tv", tmp_path / "d2.pkl")
    said = str(error.value)
    assert (
        "d2.pkl has the names of detectron2, and debug_tv follows torchvision's conventions" in said
    )
    assert said.endswith("name one of debug_d2, debug_d2_cascade")


def test_another_detector_is_named(tmp_path):
    written(tmp_path / "boxes.pth", "debug_tv_boxes")
    with pytest.raises(
        CheckpointError,
        match=r"boxes.pth \(torchvision\).*missing: .*its arrays are those of debug_tv_box",
    ):
        segjax.load("debug_tv", tmp_path / "boxes.pth")


def test_a_classifier_is_no_detector(tmp_path):
    variables = drawn("debug_tv")
    backbone = {name: {"backbone": tree["backbone"]} for name, tree in variables.items()}
    write_torch(tmp_path / "resnet.pth", TORCHVISION_RESNETS.to_published(backbone, "torchvision"))
    with pytest.raises(
        CheckpointError,
        match="holds a ResNet of torchvision's classifiers; expected Mask R-CNN; a Mask R-",
    ):
        segjax.load("debug_tv", tmp_path / "resnet.pth")


def test_convert_writes_the_library_s_own_names(tmp_path, capsys):
    variables = written(tmp_path / "d2.pkl", "debug_d2")
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.pth"
    assert main(["convert", str(tmp_path / "d2.pkl"), str(ours)]) == 0
    assert main(["convert", str(ours), str(theirs)]) == 0
    printed = capsys.readouterr().out
    assert "detectron2, debug_d2, " in printed and f"wrote {theirs}: detectron2, " in printed
    assert_same(segjax.load("debug_d2", theirs)[1], variables)
    assert main(["convert", str(ours), str(theirs), "--format", "torchvision"]) == 2
    assert "follows detectron2's conventions" in capsys.readouterr().err
    assert main(["convert", str(ours), str(tmp_path / "x.pkl")]) == 2
    assert "unknown kind; expected .safetensors or, for torch, .pth" in capsys.readouterr().err
