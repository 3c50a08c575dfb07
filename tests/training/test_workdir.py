"""The folder of a run has one run at a time, and damage in it is reported."""

import json
import shutil

import pytest

from segjax.locks import LOCK_FILE, FolderInUseError, FolderLostError
from segjax.training.loop import train
from segjax.training.reporting.metrics import MetricWriter

from .toy import ToyTask, toy_config


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Trains two steps."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    train(ToyTask(), toy_config(total_steps=2), workdir)
    return workdir


@pytest.fixture
def run(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def test_a_second_run_in_the_folder_is_refused_and_the_first_ends_normally(run, begun):
    refused = []

    def start_another(number):
        with pytest.raises(FolderInUseError, match=f"{run} is in use by this process itself"):
            train(ToyTask(), toy_config(total_steps=3), run)
        refused.append(number)

    state = train(ToyTask(on_batch=start_another), toy_config(total_steps=3), run)
    assert refused and int(state.step) == 3
    assert not (run / LOCK_FILE).exists() and not (begun / LOCK_FILE).exists()


def test_the_lock_is_released_when_a_run_fails(run):
    def fail(number):
        raise RuntimeError("no such image")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such image"):
            train(ToyTask(on_batch=fail), toy_config(total_steps=3), run)
    assert not (run / LOCK_FILE).exists()


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_folder_that_is_deleted_in_mid_run_ends_it_with_an_error(run, log_every):
    def delete(number):
        if number == 3:
            shutil.rmtree(run)

    with pytest.raises(FolderLostError, match=f"{run} was deleted"):
        train(ToyTask(on_batch=delete), toy_config(total_steps=5, log_every=log_every), run)


@pytest.mark.parametrize("content", [None, "", "[1]", '{"seed": 0, "opt', '{"optimizer": 3}'])
def test_instead_of_a_damaged_config_the_copy_in_the_checkpoint_counts(run, caplog, content):
    path = run / "config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ValueError, match=r"another config \(seed: 0 -> 4\)"):
        train(ToyTask(), toy_config(total_steps=2, seed=4), run)
    state = "missing" if content is None else "damaged"
    assert f"{path} is {state}; the copy in checkpoint 2 is used" in caplog.text
    train(ToyTask(), toy_config(total_steps=2), run)
    assert json.loads(path.read_text())["seed"] == 0


def test_damaged_rows_of_the_log_are_dropped_and_counted(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\n[3]\n{"step": "x"}\n{"step": 2}\n{"step": 9}\n{"st')
    with MetricWriter(tmp_path, step=2) as writer:
        writer.scalars(3, {"loss": 1.0})
    assert [json.loads(row)["step"] for row in path.read_text().splitlines()] == [1, 2, 3]
    assert "3 rows are damaged and dropped, such as" in caplog.text


def test_a_log_that_is_deleted_is_begun_anew(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
        path.unlink()
        writer.scalars(2, {"loss": 2.0})
        assert json.loads(path.read_text()) == {"step": 2, "loss": 2.0}
    assert "metrics.jsonl was deleted" in caplog.text
