"""How many of segjax's own functions lie between an entry point and the math.

A reader who follows `segjax train` down to the loss passes each of them. The numbers may fall, and must not rise.
"""

import pathlib
import traceback

import pytest

from segjax.cli import main
from segjax.losses import promptable
from segjax.tasks.promptable.task import Promptable

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
QUICKSTART = REPOSITORY / "experiments" / "sam" / "quickstart.py"


class Reached(BaseException):
    """Raised in place of the function that is looked for. Nothing in segjax catches it."""


def stop(*_, **__):
    raise Reached


def count_frames(function, *args) -> int:
    """Counts the frames of segjax/ between a call and the `stop` that it reaches, both ends included."""
    with pytest.raises(Reached) as caught:
        function(*args)
    frames = traceback.extract_tb(caught.tb)
    inside = [f for f in frames if pathlib.Path(f.filename).is_relative_to(REPOSITORY / "segjax")]
    assert frames[-1].name == "stop"
    return len(inside) + 1


def train(tmp_path) -> list[str]:
    return ["train", f"--config={QUICKSTART}:debug", f"--workdir={tmp_path / 'run'}"]


def test_nine_frames_from_segjax_train_to_the_loss(tmp_path, monkeypatch):
    """main, its parsing, `cli.train.run`, `train`, the jitted step, its math, gradients, objective, loss."""
    monkeypatch.setattr(Promptable, "loss", stop)
    assert count_frames(main, train(tmp_path)) <= 9


def test_fourteen_frames_from_segjax_train_to_the_dice_loss(tmp_path, monkeypatch):
    """From the loss on: `Simulator.play`, a round, the sum of losses, dice loss."""
    monkeypatch.setattr(promptable, "dice_loss", stop)
    assert count_frames(main, train(tmp_path)) <= 14
