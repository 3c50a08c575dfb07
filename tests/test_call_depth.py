"""Number of segjax's own functions between an entry point and the math.

A reader who follows `segjax train` down to the loss passes each of them. The numbers may fall but
must not rise.
"""

import pathlib
import traceback

import jax
import numpy as np
import pytest
from written_run import debug_variables

from segjax.cli import main
from segjax.inference.sam import jitted
from segjax.inference.sam.predictor import SamPredictor
from segjax.losses import promptable
from segjax.models.sam import two_way_transformer
from segjax.models.sam.build import build_sam
from segjax.tasks.promptable.task import Promptable
from segjax.training import loop
from segjax.weights.safetensors import save_variables

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
QUICKSTART = REPOSITORY / "experiments" / "sam" / "quickstart.py"


class Reached(BaseException):
    """Exception raised in place of the function at the end. Nothing in segjax catches it."""


def stop(*_, **__):
    raise Reached


def count_frames(function, *args) -> int:
    """Counts the frames of segjax/ from a call to the `stop` that it reaches, ends included."""
    # A program that another test has traced would not be traced again.
    jitted.decode_prompts.clear_cache()
    with pytest.raises(Reached) as caught:
        function(*args)
    frames = traceback.extract_tb(caught.tb)
    inside = [f for f in frames if pathlib.Path(f.filename).is_relative_to(REPOSITORY / "segjax")]
    assert frames[-1].name == "stop"
    return len(inside) + 1


def count_training_frames(tmp_path, monkeypatch) -> int:
    """Counts the frames from `main` for one step of the quickstart, which is traced only."""

    def zeros(task, config, program, checkpoints, variables):
        shapes = program.shapes.replace(key=None)
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        return zeros.replace(key=jax.random.key(0))

    monkeypatch.setattr(loop, "restore_or_initialize", zeros)  # no compiled initialization
    # One image for each of the 8 CPU devices of the tests
    workdir = f"--workdir={tmp_path / 'run'}"
    return count_frames(
        main, ["train", f"--config={QUICKSTART}:debug", workdir, "--config.batch_size=8"]
    )


def test_nine_frames_from_segjax_train_to_the_loss(tmp_path, monkeypatch):
    """Passes `main`, `run`, `train`, the compiled step, its math, gradients and objective."""
    monkeypatch.setattr(Promptable, "loss", stop)
    assert count_training_frames(tmp_path, monkeypatch) <= 9


def test_fourteen_frames_from_segjax_train_to_the_dice_loss(tmp_path, monkeypatch):
    """Passes, after the loss, `Simulator.play`, a round, and the sum of losses."""
    monkeypatch.setattr(promptable, "dice_loss", stop)
    assert count_training_frames(tmp_path, monkeypatch) <= 14


def test_nine_frames_from_sam_predictor_predict_to_attention(monkeypatch):
    """Passes its batches, the compiled step, `Sam.decode` and the modules of the mask decoder."""
    predictor = SamPredictor(build_sam("sam_debug"), debug_variables())
    predictor.set_image(np.zeros((20, 30, 3), np.uint8))
    monkeypatch.setattr(two_way_transformer, "attention", stop)
    assert count_frames(predictor.predict, [[3, 4]], [1]) <= 9


def test_ten_frames_from_segjax_predict_to_attention(tmp_path, monkeypatch):
    """Passes `cli.inference.predict.run` and `SamPredictor.predict`. Attention is not counted."""
    save_variables(
        tmp_path / "sam.safetensors", debug_variables(), {"model": {"name": "sam_debug"}}
    )
    monkeypatch.setattr(two_way_transformer, "attention", stop)
    arguments = ["demo", "--checkpoint", str(tmp_path / "sam.safetensors"), "--point", "30,40"]
    frames = count_frames(main, ["predict", *arguments, "--out", str(tmp_path / "out")])
    assert frames - 1 <= 10
