"""`segjax eval` of a classifier: metrics and images are printed and written."""

import json

import numpy as np
import pytest
from golden.drawn_weights import drawn_variables
from PIL import Image

from segjax.cli import main
from segjax.cli.evaluate import make_evaluation_config
from segjax.models.classifier import build_classifier, init_classifier
from segjax.tasks.classification.config import classification_config
from segjax.tasks.record_task import RecordTask
from segjax.training.workdir import to_plain_dict
from segjax.weights.checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with the config of a run in its metadata."""
    path = tmp_path_factory.mktemp("vit") / "probe.safetensors"
    config = classification_config()
    config.model = {"name": "vit_debug", "frozen": True}
    write_checkpoint(
        path,
        drawn_variables(build_classifier(**config.model), init_classifier),
        metadata=to_plain_dict(config),
    )
    return str(path)


@pytest.fixture
def measured(monkeypatch):
    class MeasuredTask:
        def __init__(self, config):
            MeasuredTask.config = config

        def init(self, key):
            return {"params": {}, "constants": {}}

        def evaluate(self, variables, *, mesh):
            trained = "head" in variables["params"]
            return {"top1": 0.75 if trained else 0.25}, {"classes": np.zeros((4, 6, 3), np.uint8)}

        write_evaluation = RecordTask.write_evaluation

    monkeypatch.setattr("segjax.tasks.make_task", MeasuredTask)
    return MeasuredTask


def test_eval_prints_and_writes_the_metrics_of_training(weights, measured, tmp_path, capsys):
    assert main(["eval", "--checkpoint", weights, "--config.eval.neighbours=5"]) == 0
    assert capsys.readouterr().out.split() == ["probe.safetensors", "top1", "0.7500"]
    assert (measured.config.task, measured.config.eval.neighbours) == ("classification", 5)
    assert measured.config.model.frozen
    out = tmp_path / "out"
    assert main(["eval", "--checkpoint", weights, "--untrained", "--out", str(out)]) == 0
    assert capsys.readouterr().out.split()[:5] == [
        "trained",
        "untrained",
        "top1",
        "0.7500",
        "0.2500",
    ]
    report = json.loads((out / "evaluation.json").read_text())
    assert report == {"trained": {"top1": 0.75}, "untrained": {"top1": 0.25}}
    assert Image.open(out / "classes.png").size == (6, 4)


@pytest.mark.parametrize(
    "name, task",
    [("vit_debug", "classification"), ("mae_debug", "reconstruction"), ("sam_debug", "promptable")],
)
def test_weights_without_a_run_are_measured_by_the_task_of_their_model(tmp_path, name, task):
    assert (
        main(["prepare", "synthetic", "--out", str(tmp_path / "data"), "--option", "count=1"]) == 0
    )  # both splits
    config = make_evaluation_config(
        {"model": {"name": name}}, str(tmp_path / "data"), "heldout", []
    )
    assert (config.task, config.data.eval_split) == (task, "heldout")


def test_commands_for_other_models_refuse_a_classifier(weights, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    words = [
        "reconstruct",
        str(tmp_path / "a.png"),
        "--checkpoint",
        weights,
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 2
    assert "holds vit_debug; this command takes a MAE" in capsys.readouterr().err
