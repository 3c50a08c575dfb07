"""Four processes with one device each train like one process. Four, two or one resume the run."""

import json
import shutil

import jax
import numpy as np
import pytest
from processes import launch

from segjax.training.loop import train
from segjax.training.sharding import place_batch, replicated

from .toy import ToyTask, examples, toy_config

STEPS, EVERY = 8, 2


class Scored(ToyTask):
    """Toy task evaluated by its loss on 32 held-out examples, split over the processes."""

    def evaluate(self, variables, *, mesh):
        own = np.split(np.arange(32), jax.process_count())[jax.process_index()]
        rows = {name: rows[own] for name, rows in examples(10_000, 32).items()}
        loss = lambda variables, rows: self.loss(variables, rows, jax.random.key(0), False)[:2]
        total, weight = jax.jit(loss, out_shardings=replicated(mesh))(
            variables, place_batch(rows, mesh)
        )
        return {"score": float(total / weight)}, {}


def train_to(workdir, total_steps, fsdp):
    """Trains in each process, saves and evaluates every other step, and returns the devices."""
    changes = dict(
        total_steps=total_steps, eval_every=EVERY, checkpoint__every=EVERY, mesh__fsdp=fsdp
    )
    train(Scored(), toy_config(**changes, optimizer__schedule="constant"), workdir)
    return jax.process_count(), jax.device_count()


def logged(workdir, name):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in rows if name in row}


def assert_the_same_run(workdir, other):
    for name, steps in (("loss", range(1, STEPS + 1)), ("score", range(EVERY, STEPS + 1, EVERY))):
        ours, theirs = logged(workdir, name), logged(other, name)
        assert list(ours) == list(theirs) == list(steps)
        np.testing.assert_allclose(
            list(ours.values()), list(theirs.values()), rtol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_four_processes_train_like_one_and_four_two_or_one_resume(tmp_path):
    alone = tmp_path / "alone" / "run"
    assert launch(alone.parent, train_to, 1, 1, workdir=alone, total_steps=STEPS, fsdp=1) == [
        (1, 1)
    ]
    begun = tmp_path / "begun" / "run"
    assert (
        launch(begun.parent, train_to, 4, 1, workdir=begun, total_steps=STEPS // 2, fsdp=2)
        == [(4, 4)] * 4
    )
    assert sorted(path.name for path in (begun / "checkpoints").iterdir()) == ["2", "4"]
    for processes in (4, 2, 1):
        run = tmp_path / str(processes) / "run"
        shutil.copytree(begun, run)
        launch(run.parent, train_to, processes, 1, workdir=run, total_steps=STEPS, fsdp=processes)
        assert_the_same_run(run, alone)
