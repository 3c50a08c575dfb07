"""`segjax segment`, `segjax serve` and `segjax engine` on the command line, and their mistakes."""

import json

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image

from segjax.cli import main
from segjax.evaluation.panoptic import decode_ids
from segjax.inference.perception import services
from segjax.models.build import build_model, init_model
from segjax.weights.safetensors import save_variables


def save(path, name, **options):
    model = build_model(name, **options)
    variables = drawn_variables(model, init_model)
    save_variables(path, variables, {"model": {"name": name, **options}})
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(folder / "photo.png")
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:50] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return {
        "folder": folder,
        "image": str(folder / "photo.png"),
        "mask": str(folder / "mask.png"),
        "sam": save(folder / "sam.safetensors", "sam_debug"),
        "clip": save(folder / "clip.safetensors", "clip_debug"),
        "mae": save(folder / "mae.safetensors", "mae_debug"),
    }


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def read(out):
    return json.loads((out / "photo_segments.json").read_text())


@pytest.mark.parametrize(
    "options, kind",
    [
        (["--point", "20,10", "--point", "5,5,0", "--checkpoint", "SAM"], "interactive"),
        (["--box", "5,5,40,30", "--checkpoint", "SAM"], "interactive"),
        (["--mask", "MASK", "--checkpoint", "SAM"], "interactive"),
        (["--example", "IMAGE", "MASK", "--checkpoint", "SAM"], "interactive"),
        (["--emergent", "maskcut", "--checkpoint", "MAE", "--size", "96"], "emergent"),
    ],
)
def test_prompts(files, tmp_path, capsys, options, kind):
    names = {"SAM": "sam", "MAE": "mae", "MASK": "mask", "IMAGE": "image"}
    options = [files[names[text]] if text in names else text for text in options]
    status, text = run(capsys, "segment", files["image"], *options, "--out", tmp_path)
    assert status == 0 and kind in text
    content = read(tmp_path)
    assert content["kind"] == kind and content["image"]["height"] == 40
    for row in content["annotations"]:
        assert row["segmentation"]["size"] == [40, 60] and row["area"] > 0
    assert Image.open(tmp_path / "photo_segments.png").size == (60, 40)


def test_panoptic_results_are_in_cocos_format(files, tmp_path, capsys, monkeypatch):
    masks = [np.zeros((40, 60), bool), np.zeros((40, 60), bool)]
    masks[0][:, :20], masks[1][:, 30:] = True, True
    monkeypatch.setattr(services, "_propose", lambda *_: (masks, [0.9, 0.8]))
    options = ["--classes", "star,cross", "--stuff", "arrow", "--clip", files["clip"]]
    options += ["--checkpoint", files["sam"], "--out", tmp_path]
    status, text = run(capsys, "segment", files["image"], *options)
    assert status == 0 and "panoptic.json" in text
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [row["isthing"] for row in content["categories"]] == [1, 1, 0]
    ids = decode_ids(np.asarray(Image.open(tmp_path / "panoptic" / "photo.png")))
    infos = content["annotations"][0]["segments_info"]
    assert sorted(np.unique(ids[ids > 0])) == [row["id"] for row in infos]
    # It is its own ground truth
    truth = tmp_path / "panoptic.json"
    status, text = run(
        capsys, "eval", "panoptic", "--predictions", truth, "--truth", truth, "--out", tmp_path
    )
    assert status == 0
    assert json.loads(truth.read_text())["All"]["PQ"] == 1.0


@pytest.mark.parametrize(
    "options, words",
    [
        (["--point", "1,2", "--everything"], "--point and --everything are different prompts"),
        (["--stuff", "sky"], "--stuff goes with --classes"),
        (["--size", "64"], "--size goes with --emergent"),
        (["--refine", "--point", "1,2"], "--refine goes with --detector alone"),
        (["--emergent", "dino"], "choose one of tokencut"),
        ([], "a detector says what to segment"),
        (["--text", "the red star"], "need a CLIP"),
        (["--classes", "a,a", "--clip", "x"], "occurs twice"),
        (["--point", "1"], "expected"),
    ],
)
def test_mistakes_of_segment(files, tmp_path, capsys, options, words):
    arguments = [files["image"], "--checkpoint", files["sam"], *options, "--out", tmp_path]
    status, text = run(capsys, "segment", *arguments)
    assert status == 2 and words in text
    assert not list(tmp_path.iterdir())


def test_mistakes_of_the_engine(files, tmp_path, capsys):
    for arguments, words in (
        (["retrain", tmp_path / "no"], "no annotated folder"),
        (["prefill", tmp_path / "no"], "no annotated folder"),
        (["report", tmp_path / "no"], "no annotated folder"),
        (["retrain", tmp_path, "--mix", "data"], "expected DATA=WEIGHT"),
        (["generate", tmp_path / "no", tmp_path / "out"], "no folder of images"),
        (["generate", tmp_path, tmp_path / "out", "--shard", "3"], "expected I/N"),
        (["generate", tmp_path, tmp_path / "out", "--shard", "2/2"], "has no images"),
        (["simulate", tmp_path, "--data", tmp_path, "--images", "2"], "expected one per part"),
    ):
        status, text = run(capsys, "engine", *arguments)
        assert status == 2 and words in text
    for command in ("retrain", "report"):
        status, text = run(capsys, "engine", command, tmp_path)
        assert status == 0 and "no object is committed" in text
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_told_before_the_model_loads(tmp_path, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, text = run(capsys, "serve", tmp_path, "--port", port)
    assert status == 2 and f"cannot listen on 127.0.0.1:{port}" in text
