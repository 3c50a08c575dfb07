"""Loading detectors: torchvision's .pth, detectron2's .pkl, runs with frozen stages, and errors."""

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

# Small detectors of both libraries, recognized by the names of their arrays like published ones.
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


def make_variables(name, **options):
    return drawn_variables(build_model(name, **options), init_model)


def assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def write_published(path, name, **options):
    variables = make_variables(name, **options)
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
@pytest.mark.parametrize("with_name", [True, False])
def test_files_load_with_and_without_a_name(tmp_path, name, file, with_name):
    variables = write_published(tmp_path / file, name)
    model, loaded = segjax.load(*[name] * with_name, tmp_path / file)
    assert model == build_model(name)
    assert_same(loaded, variables)


def test_the_number_of_classes_is_read_from_the_file(tmp_path):
    variables = write_published(tmp_path / "own.pth", "debug_tv", classes=5)
    model, loaded = segjax.load("debug_tv", tmp_path / "own.pth")
    assert model.classes == 5
    assert_same(loaded, variables)


def test_a_checkpoint_loads_with_and_without_frozen_stages(tmp_path):
    metadata = {"model": {"name": "debug_tv", "freeze_at": 2}}
    variables = make_variables("debug_tv", freeze_at=2)
    write_checkpoint(tmp_path / "run.safetensors", variables, metadata=metadata)
    model, loaded = segjax.load(tmp_path / "run.safetensors")
    assert model.backbone.freeze_at == 2 and "stem" not in loaded["params"]["backbone"]
    assert_same(loaded, variables)
    model, loaded = segjax.load(tmp_path / "run.safetensors", freeze_at=0)
    assert_same(loaded, match_collections(variables, make_variables("debug_tv")))
    assert "kernel" in loaded["params"]["backbone"]["stem"]


def test_a_file_of_the_other_library_raises(tmp_path):
    write_published(tmp_path / "d2.pkl", "debug_d2")
    with pytest.raises(CheckpointError) as error:
        segjax.load("debug_tv", tmp_path / "d2.pkl")
    message = str(error.value)
    assert (
        "d2.pkl has the names of detectron2, and debug_tv follows torchvision's conventions"
        in message
    )
    assert message.endswith("name one of debug_d2, debug_d2_cascade")


def test_the_error_names_the_detector_that_fits(tmp_path):
    write_published(tmp_path / "boxes.pth", "debug_tv_boxes")
    with pytest.raises(
        CheckpointError,
        match=r"boxes.pth \(torchvision\).*missing: .*its arrays are those of debug_tv_box",
    ):
        segjax.load("debug_tv", tmp_path / "boxes.pth")


def test_a_classifier_is_not_a_detector(tmp_path):
    variables = make_variables("debug_tv")
    backbone = {name: {"backbone": tree["backbone"]} for name, tree in variables.items()}
    write_torch(tmp_path / "resnet.pth", TORCHVISION_RESNETS.to_published(backbone, "torchvision"))
    with pytest.raises(
        CheckpointError,
        match="holds a ResNet of torchvision's classifiers; expected Mask R-CNN; a Mask R-",
    ):
        segjax.load("debug_tv", tmp_path / "resnet.pth")


def test_convert_writes_the_names_of_the_library(tmp_path, capsys):
    variables = write_published(tmp_path / "d2.pkl", "debug_d2")
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
