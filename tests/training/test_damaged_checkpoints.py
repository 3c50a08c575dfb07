"""A checkpoint whose files have changed since they were saved is never loaded."""

import json
import logging
import os
import shutil

import jax
import numpy as np
import pytest
from processes import launch, meet

from segjax.training.checkpoints import Checkpoints, manager, saving
from segjax.training.sharding import make_mesh
from segjax.weights import run_folder
from segjax.weights.checksums import CHECKSUMS_FILE
from segjax.weights.run_folder import load_variables
from segjax.weights.tree import CheckpointError

from .test_checkpoints import make_state, segjax_log

CONFIG = {"checkpoint": {"best": "iou"}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves checkpoints 2 and 3 of one run, 2 being the better one."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step, score in ((2, 0.9), (3, 0.5)):
            state = make_state(make_mesh(data=2, fsdp=4), seed=step, step=step)[0]
            checkpoints.save(state, {"config": CONFIG}, {"iou": score})
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


@pytest.fixture
def older(copy):
    """Removes the checksums, as if a version without them had written the checkpoints."""
    for step in ("2", "3"):
        (copy / step / CHECKSUMS_FILE).unlink()
        meta = copy / step / "meta" / "metadata"
        content = json.loads(meta.read_text())
        del content["checksums"]
        meta.write_text(json.dumps(content))
    return copy


def resume(folder):
    """Resumes as a run does, and saves step 3 if it is lost. Returns (resumed step, steps)."""
    _, shapes, shardings = make_state(make_mesh(data=2, fsdp=4))
    with Checkpoints(folder) as checkpoints:
        state, _ = checkpoints.restore(shapes, shardings)
        if 3 not in checkpoints.steps:
            checkpoints.save(make_state(make_mesh(data=2, fsdp=4), step=3)[0], {"config": CONFIG})
            checkpoints.wait()
        return int(state.step), checkpoints.steps


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def cut_arrays(step):
    for path in (step / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace_by_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    "has 2 bytes instead of": lambda step: (step / "meta" / "metadata").write_text("{}"),
    "state/_METADATA is missing": lambda step: (step / "state" / "_METADATA").unlink(),
    "_METADATA is no regular file": lambda step: replace_by_pipe(step / "state/_METADATA"),
    "state/d/more was not there": lambda step: (step / "state" / "d" / "more").touch(),
    "is missing": lambda step: shutil.rmtree(step / "state"),
    "checksums.json is missing": lambda step: (step / CHECKSUMS_FILE).unlink(),
    "checksums.json has changed": lambda step: (step / CHECKSUMS_FILE).write_text("[" * 9999),
    "checksums.json cannot be read": lambda step: (
        (step / CHECKSUMS_FILE).unlink(),
        (step / CHECKSUMS_FILE).mkdir(),
    ),
}


@pytest.mark.parametrize("count", [64, pytest.param(500, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_detected(copy, count):
    files = sorted(path for path in (copy / "3").rglob("*") if path.is_file())
    assert len(files) < count, "each file is hit at least once"
    rng = np.random.default_rng(count)
    sizes = np.array([path.stat().st_size for path in files])
    drawn = rng.choice(len(files), count - len(files), p=sizes / sizes.sum())
    for index in (*range(len(files)), *drawn):
        bit = int(rng.integers(8 * sizes[index]))
        flip(files[index], bit)
        assert "has changed since it was saved" in run_folder.find_damage(copy, 3)
        if "optimizer" not in files[index].parts:  # which `load_variables` does not read
            with pytest.raises(CheckpointError, match="checkpoints/3 is damaged: .* has changed"):
                load_variables(copy, step=3)
        flip(files[index], bit)
    assert load_variables(copy, step=3)[1] == CONFIG


def test_processes_that_share_the_bytes_find_the_damage_together(copy):
    path = copy / "3" / "meta" / "metadata"
    flip(path, 99)
    damages = [run_folder.find_damage(copy, 3, share=(rank, 4)) for rank in range(4)]
    assert sorted(map(bool, damages)) == [False, False, False, True]


def save_damage_and_resume(checkpoints_folder):
    """Saves two checkpoints in each process, damages the newer one in process 0 and resumes."""
    mesh = make_mesh(fsdp=4)
    with Checkpoints(checkpoints_folder) as checkpoints:
        for step in (2, 3):
            checkpoints.save(make_state(mesh, step=step)[0], {"config": CONFIG})
    if jax.process_index() == 0:
        files = (path for path in (checkpoints_folder / "3").rglob("*") if path.is_file())
        flip(max(files, key=lambda path: path.stat().st_size), 99)
    meet("damaged")
    _, shapes, shardings = make_state(mesh)
    with Checkpoints(checkpoints_folder) as checkpoints:
        state, _ = checkpoints.restore(shapes, shardings)
        return int(state.step), checkpoints.steps


@pytest.mark.slow
def test_two_processes_move_a_damaged_checkpoint_aside_together(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    results = launch(
        tmp_path / "processes", save_damage_and_resume, 2, 2, checkpoints_folder=folder
    )
    assert results == [(2, [2])] * 2
    assert (folder.parent / "checkpoints_unreadable" / "3").is_dir()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_in_one_sentence_and_left_alone(copy, caplog, damage):
    DAMAGES[damage](copy / "3")
    _, config = load_variables(copy)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"checkpoint {copy / '3'} is damaged and passed over (")
    assert damage in message and message.endswith("; the checkpoint of step 2 is used")
    assert "\n" not in message and config == CONFIG and (copy / "3").is_dir()


def test_only_a_resumed_run_reads_the_optimizer_state_and_is_stopped_by_damage_in_it(copy):
    path = max((copy / "3" / "optimizer").rglob("d/*"), key=lambda path: path.stat().st_size)
    flip(path, 99)
    load_variables(copy, step=3)
    assert resume(copy) == (2, [2, 3])


def test_a_checkpoint_with_all_arrays_in_one_part_is_resumed(tmp_path, monkeypatch):
    state, shapes, shardings = make_state(make_mesh(data=2, fsdp=4))
    divide = manager.divide_state
    with monkeypatch.context() as patch:
        patch.setattr(manager, "divide_state", lambda apart: divide(apart=False))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(state, {"config": CONFIG})
    assert not (tmp_path / "3" / "optimizer").exists()
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(shapes, shardings)
    jax.tree.map(np.testing.assert_array_equal, restored.opt_state, state.opt_state)


def test_files_that_desktops_and_network_file_systems_add_are_no_damage(copy):
    (copy / "3" / ".DS_Store").touch(), (copy / "3" / "state" / ".nfs01").touch()
    load_variables(copy, step=3)


def test_a_resumed_run_moves_a_damaged_checkpoint_aside(copy, caplog):
    cut_arrays(copy / "3")
    assert resume(copy) == (2, [2, 3])
    (message,) = [record.getMessage() for record in caplog.records]
    aside = copy.parent / "checkpoints_unreadable"
    assert f"checkpoint {copy / '3'} is damaged and moved to {aside}" in message
    assert (aside / "3").is_dir() and load_variables(copy, step=3)


def test_an_older_checkpoint_that_could_be_the_best_is_moved_aside_too(copy, caplog):
    flip(copy / "2" / "meta" / "metadata", 99)
    assert resume(copy) == (3, [3])
    assert f"checkpoint {copy / '2'} is damaged and moved to" in segjax_log(caplog)


def test_an_older_checkpoint_that_a_killed_run_has_partly_deleted_is_no_damage(copy, caplog):
    shutil.rmtree(copy / "2" / "meta")
    assert resume(copy) == (3, [2, 3]) and not segjax_log(caplog)


def test_without_an_undamaged_checkpoint_an_error_is_raised_and_nothing_is_moved(copy, caplog):
    cut_arrays(copy / "2"), cut_arrays(copy / "3")
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged \(3: .*; 2: "):
        resume(copy)
    assert (copy / "3").is_dir() and not segjax_log(caplog)


def test_a_damaged_checkpoint_that_was_asked_for_is_an_error(copy):
    cut_arrays(copy / "2")
    for step in (2, "best"):
        with pytest.raises(CheckpointError, match=r"checkpoints/2 is damaged: .*steps are \[3\]"):
            load_variables(copy, step=step)


def test_a_checkpoint_with_damaged_metrics_is_not_silently_left_out_of_the_choice(copy, caplog):
    flip(copy / "2" / "meta" / "metadata", 99)
    load_variables(copy, step="best")
    assert f"checkpoint {copy / '2'} is damaged and cannot be the best" in caplog.text
    flip(copy / "3" / "meta" / "metadata", 99)
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged \(2: .*; 3: "):
        load_variables(copy, step="best")


def test_a_checkpoint_of_an_earlier_version_loads_with_a_line_in_the_log(older, caplog):
    caplog.set_level(logging.INFO, "segjax")
    assert resume(older) == (3, [2, 3])
    assert "3 was saved without checksums and cannot be verified" in segjax_log(caplog)


@pytest.mark.parametrize("load", [resume, load_variables])
def test_a_damaged_checkpoint_of_an_earlier_version_takes_one_sentence(older, caplog, capfd, load):
    cut_arrays(older / "3")
    load(older)
    assert len(caplog.records) == 1 and "3 is damaged and" in caplog.text
    assert len("".join(capfd.readouterr()).splitlines()) <= 1, "orbax logs a page"


def test_metadata_of_another_form_is_damage(older, caplog):
    for content in ("[]", '{"config": 3}', '{"config": {}, "metrics": {"iou": "x"}}', "", "\xff"):
        (older / "3" / "meta" / "metadata").write_text(content)
        with pytest.raises(CheckpointError, match="3 is damaged: .*metadata is damaged: it "):
            load_variables(older, step=3)


def test_a_run_in_progress_that_deletes_the_checkpoints_being_read_has_newer_ones(
    copy, monkeypatch
):
    read = run_folder._read_step

    def save_newer_and_delete(folder, step, ema):
        if step == 3:
            shutil.copytree(folder / "3", folder / "4")
            shutil.rmtree(folder / "2")
            (folder / "3" / "state" / "_METADATA").unlink()
        return read(folder, step, ema)

    monkeypatch.setattr(run_folder, "_read_step", save_newer_and_delete)
    assert load_variables(copy)[1] == CONFIG


def test_an_undamaged_checkpoint_that_cannot_be_loaded_is_not_moved(copy, monkeypatch):
    def fail(*_):
        raise MemoryError("out of memory")

    monkeypatch.setattr(run_folder, "_read_step", fail)
    with pytest.raises(CheckpointError, match="3 is undamaged but cannot be loaded: MemoryError"):
        load_variables(copy)


def test_a_save_that_dies_before_its_checksums_leaves_no_checkpoint(copy, monkeypatch):
    def die(folder):
        raise OSError("killed")

    monkeypatch.setattr(saving, "write_checksums", die)
    checkpoints = Checkpoints(copy)
    checkpoints.save(make_state(make_mesh(), step=4)[0], {"config": CONFIG})
    with pytest.raises(OSError, match="killed"):
        checkpoints.wait()
    monkeypatch.undo()
    (left,) = copy.glob("4*")
    assert left.name != "4" and load_variables(copy)
    assert resume(copy) == (3, [2, 3]) and not left.exists()
