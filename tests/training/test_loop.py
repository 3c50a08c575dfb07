import json
import logging
import os
import pathlib
import signal

import jax
import numpy as np
import pytest

from segjax.training.checkpoints import Checkpoints
from segjax.training.interruption import Interrupted
from segjax.training.loop import train
from segjax.training.monitor import NonFiniteError
from segjax.weights.run_folder import load_variables
from segjax.weights.safetensors import save_variables
from segjax.weights.tree import CheckpointError

from .toy import HIDDEN, INPUTS, ToyTask, toy_config


def host(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir):
    return {r["step"]: r["loss"] for r in rows(workdir) if "loss" in r}


def list_steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Trains without interruption and returns (final state, losses by step, workdir, task)."""
    workdir = tmp_path_factory.mktemp("plain")
    task = ToyTask()
    state = train(task, toy_config(mesh__fsdp=4, ema_decay=0.9), workdir)
    return host(state), losses(workdir), workdir, task


def test_a_run_writes_checkpoints_metrics_and_images(uninterrupted):
    state, by_step, workdir, task = uninterrupted
    assert (
        int(state.step) == 6
        and sorted(by_step) == [1, 2, 3, 4, 5, 6]
        and list_steps(workdir) == [4, 6]
    )
    assert json.loads((workdir / "config.json").read_text())["optimizer"]["peak_lr"] == 1e-2
    row = next(r for r in rows(workdir) if r["step"] == 3)
    assert {
        "loss",
        "absolute",
        "grad_norm",
        "lr",
        "seconds_per_step",
        "images_per_second",
        "loader_wait",
    } <= set(row)
    assert 0 <= row["loader_wait"] <= 1 and row["images_per_second"] > 0
    assert row["images_per_second_per_chip"] == pytest.approx(
        row["images_per_second"] / jax.device_count()
    )
    assert row["tflops_per_chip"] > 0 and "mfu" not in row, "the peak of a CPU is not known"
    assert (workdir / "pictures" / "sample_0000006.png").is_file() and list(
        (workdir / "tb").iterdir()
    )
    assert task.evaluations == 1 and rows(workdir)[-1]["score"] == 0.0
    _, config = load_variables(workdir)
    assert config == json.loads((workdir / "config.json").read_text())


def test_the_step_is_traced_and_compiled_once(uninterrupted, tmp_path, caplog):
    assert uninterrupted[3].traces == 1
    task = ToyTask()
    caplog.set_level(logging.ERROR, "segjax")
    train(task, toy_config(total_steps=3), tmp_path)
    assert task.traces == 1 and "compiled" not in caplog.text


def test_batches_that_change_shape_are_reported(tmp_path, caplog):
    class Growing(ToyTask):
        def batches(self, split, **options):
            for i, batch in enumerate(super().batches(split, **options)):
                yield {**batch, "x": batch["x"].astype(np.float16 if i == 2 else np.float32)}

    train(Growing(), toy_config(total_steps=4), tmp_path)
    assert "compiled 2 times" in caplog.text


def test_batches_receive_the_workdir(tmp_path):
    class Writing(ToyTask):
        def batches(self, split, *, workdir, **options):
            (workdir / "broken").write_text("none")
            return super().batches(split, **options)

    train(Writing(), toy_config(total_steps=1), tmp_path)
    assert (tmp_path / "broken").read_text() == "none"


@pytest.mark.parametrize("stop", [1, 3])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(uninterrupted, tmp_path, stop):
    def interrupt(number):
        if number == stop - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    config = toy_config(mesh__fsdp=4, ema_decay=0.9)
    with pytest.raises(Interrupted) as stopped:
        train(ToyTask(on_batch=interrupt), config, tmp_path)
    assert stopped.value.step == stop and stopped.value.code == 128 + signal.SIGTERM
    assert list_steps(tmp_path)[-1] == stop
    state = train(ToyTask(), config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, host(state), uninterrupted[0])
    assert losses(tmp_path) == uninterrupted[1]


def test_muon_with_sharded_matrices_resumes_bit_for_bit(tmp_path):
    def interrupt(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    config = toy_config(mesh__fsdp=4, optimizer__name="muon")
    straight = train(ToyTask(), config, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(ToyTask(on_batch=interrupt), config, tmp_path / "stopped")
    jax.tree.map(
        np.testing.assert_array_equal,
        host(train(ToyTask(), config, tmp_path / "stopped")),
        host(straight),
    )


def test_a_killed_run_redoes_lost_steps_and_logs_each_once(uninterrupted, tmp_path):
    class Killed(Exception):
        pass

    def kill(number):
        if number == 5:
            raise Killed

    config = toy_config(mesh__fsdp=4, ema_decay=0.9)
    with pytest.raises(Killed):
        train(ToyTask(on_batch=kill), config, tmp_path)
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 6, "lo')  # a line cut short by the kill
    assert list_steps(tmp_path) == [2, 4] and sorted(losses_before_cut(tmp_path)) == [
        1,
        2,
        3,
        4,
        5,
    ]
    state = train(ToyTask(), config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, host(state), uninterrupted[0])
    assert [r["step"] for r in rows(tmp_path) if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert losses(tmp_path) == uninterrupted[1]


def losses_before_cut(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()[:-1]
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.parametrize("fsdp", [1, 8])
def test_resuming_on_another_mesh_continues_from_the_same_values(
    uninterrupted, tmp_path, fsdp, caplog
):
    def interrupt(number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(ToyTask(on_batch=interrupt), toy_config(mesh__fsdp=4, ema_decay=0.9), tmp_path)
    state = train(ToyTask(), toy_config(mesh__fsdp=fsdp, ema_decay=0.9), tmp_path)
    assert f"mesh.fsdp: 4 -> {fsdp}" in caplog.text
    kernel = state.params["first"]["kernel"]
    assert {s.data.shape for s in kernel.addressable_shards} == {(INPUTS, HIDDEN // fsdp)}
    np.testing.assert_allclose(
        list(losses(tmp_path).values()), list(uninterrupted[1].values()), rtol=1e-5
    )


def test_a_finished_run_is_left_unchanged_and_a_message_is_logged(uninterrupted, caplog):
    state, by_step, workdir, _ = uninterrupted
    task = ToyTask()
    caplog.set_level(logging.INFO, "segjax")
    again = train(task, toy_config(mesh__fsdp=4, ema_decay=0.9), workdir)
    jax.tree.map(np.testing.assert_array_equal, host(again), state)
    assert task.traces <= 1 and losses(workdir) == by_step
    assert f"{workdir} is finished at step 6: `segjax eval --checkpoint {workdir}" in caplog.text


def test_signal_handlers_are_restored(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(ToyTask(), toy_config(total_steps=1), tmp_path)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_signal_does_not_lose_the_first_save(tmp_path, monkeypatch, caplog):
    def kill(_=None):
        os.kill(os.getpid(), signal.SIGTERM)

    waited = Checkpoints.wait

    def signalled_wait(self):
        kill()
        waited(self)
        kill()

    monkeypatch.setattr(Checkpoints, "wait", signalled_wait)
    with pytest.raises(Interrupted):
        train(
            ToyTask(on_batch=lambda n: kill() if n == 2 else None),
            toy_config(checkpoint__every=0),
            tmp_path,
        )
    assert list_steps(tmp_path) == [3] and "SIGTERM again" in caplog.text
    assert int(train(ToyTask(), toy_config(checkpoint__every=0, total_steps=4), tmp_path).step) == 4


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_non_finite_step_names_its_examples_and_saves_the_state_before_it(tmp_path, log_every):
    config = toy_config(log_every=log_every, checkpoint__every=0)
    with pytest.raises(
        NonFiniteError, match=r"step 3: .*loss nan.*by index: 48, 49, 50, .* 63\..*checkpoint 3"
    ) as error:
        train(ToyTask(poison=3), config, tmp_path)
    assert error.value.step == 3 and error.value.index == list(range(48, 64))
    assert list_steps(tmp_path) == [3]
    # The checkpoint is valid: with a repaired batch the run resumes as if nothing had happened.
    resumed = train(ToyTask(), config, tmp_path)
    straight = train(ToyTask(), config, tmp_path / "straight")
    jax.tree.map(np.testing.assert_array_equal, host(resumed), host(straight))


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    task = ToyTask()
    task.scores = iter([0.1, 0.9, 0.2, 0.3, 0.4, 0.5])
    train(
        task,
        toy_config(eval_every=1, checkpoint__best="score", checkpoint__keep=1, checkpoint__every=0),
        tmp_path,
    )
    assert list_steps(tmp_path) == [2, 6] and task.evaluations == 6


@pytest.mark.parametrize("best", ["", "score"])
def test_a_save_comes_before_the_evaluation_unless_it_needs_its_metrics(
    tmp_path, monkeypatch, best
):
    events = []
    saved = Checkpoints.save

    def save(self, state, meta, metrics=None):
        events.append(("save", int(state.step), metrics))
        saved(self, state, meta, metrics)

    class Watched(ToyTask):
        def evaluate(self, variables, *, mesh):
            events.append("evaluate")
            return super().evaluate(variables, mesh=mesh)

    monkeypatch.setattr(Checkpoints, "save", save)
    train(
        Watched(),
        toy_config(total_steps=3, eval_every=2, checkpoint__every=2, checkpoint__best=best),
        tmp_path,
    )
    metrics = {"score": 0.0}
    if best:
        assert events == ["evaluate", ("save", 2, metrics), "evaluate", ("save", 3, metrics)]
    else:
        assert events == [("save", 2, None), "evaluate", ("save", 3, None), "evaluate"]


def test_an_unknown_best_metric_is_an_error_that_lists_the_metrics(tmp_path):
    with pytest.raises(ValueError, match="checkpoint.best is 'iou'.*score"):
        train(ToyTask(), toy_config(total_steps=1, checkpoint__best="iou"), tmp_path)
    assert list_steps(tmp_path) == [1], "the trained state is saved"


def test_a_failing_evaluation_loses_no_training(tmp_path):
    class Faulty(ToyTask):
        def evaluate(self, variables, *, mesh):
            raise RuntimeError("no such image")

    with pytest.raises(RuntimeError, match="no such image"):
        train(Faulty(), toy_config(total_steps=3, checkpoint__every=0), tmp_path)
    assert list_steps(tmp_path) == [3]


def test_the_evaluation_sees_the_moving_average(tmp_path):
    seen = []

    class Watching(ToyTask):
        def evaluate(self, variables, *, mesh):
            seen.append(jax.device_get(variables["params"]["first"]["kernel"]))
            return {}, {}

    state = train(Watching(), toy_config(ema_decay=0.5), tmp_path)
    np.testing.assert_array_equal(seen[0], state.ema["first"]["kernel"])
    assert np.abs(seen[0] - np.asarray(state.params["first"]["kernel"])).max() > 1e-4


def test_init_from_loads_parameters_and_own_checkpoints_come_first(uninterrupted, tmp_path):
    source = uninterrupted[2]
    config = toy_config(
        init_from=str(source), optimizer__peak_lr=0.0, optimizer__weight_decay=0.0, total_steps=2
    )
    state = train(ToyTask(), config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, host(state).params, uninterrupted[0].ema)
    assert int(state.step) == 2
    config.init_from = str(tmp_path / "gone")
    config.checkpoint.may_change = ("init_from",)
    config.total_steps = 3
    assert int(train(ToyTask(), config, tmp_path).step) == 3, "resumed: init_from is ignored"


def test_init_from_loads_a_file_of_weights(tmp_path):
    given = jax.tree.map(np.asarray, ToyTask().init(jax.random.key(78)))
    save_variables(
        tmp_path / "toy.safetensors", jax.tree.map(lambda x: x.astype(np.float64), given), {}
    )
    config = toy_config(
        init_from=str(tmp_path / "toy.safetensors"), optimizer__peak_lr=0.0, total_steps=1
    )
    state = train(ToyTask(), config, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, host(state).params, given["params"])


def test_init_from_another_architecture_is_an_error(uninterrupted, tmp_path):
    config = toy_config(init_from=str(uninterrupted[2]))
    with pytest.raises(CheckpointError, match=r"init_from .*another architecture.*3 misshapen"):
        train(ToyTask(hidden=24), config, tmp_path)


def test_a_run_starts_from_given_variables(tmp_path):
    given = jax.tree.map(np.asarray, ToyTask().init(jax.random.key(77)))
    config = toy_config(optimizer__peak_lr=0.0, total_steps=1)
    state = train(ToyTask(), config, tmp_path, variables=given)
    jax.tree.map(np.testing.assert_array_equal, host(state).params, given["params"])


def test_a_resumed_run_may_not_change_the_computation_of_a_step(uninterrupted):
    config = toy_config(mesh__fsdp=4, ema_decay=0.9, seed=4, optimizer__peak_lr=0.5)
    with pytest.raises(
        ValueError, match=r"optimizer.peak_lr: 0.01 -> 0.5; seed: 0 -> 4.*may_change"
    ):
        train(ToyTask(), config, uninterrupted[2])


def test_a_setting_missing_from_an_old_config_counts_as_its_default(tmp_path, caplog):
    train(ToyTask(), toy_config(total_steps=1), tmp_path)
    path = tmp_path / "config.json"
    begun = json.loads(path.read_text())
    del (
        begun["optimizer"]["layer_decay"],
        begun["optimizer"]["boundaries"],
        begun["mesh"]["overrides"],
    )
    path.write_text(json.dumps(begun))
    with pytest.raises(ValueError, match=r"another config \(optimizer.layer_decay: 1.0 -> 0.5\)"):
        train(ToyTask(), toy_config(total_steps=1, optimizer__layer_decay=0.5), tmp_path)
    caplog.clear()
    train(ToyTask(), toy_config(total_steps=1), tmp_path)
    assert "changed config" not in caplog.text
    assert json.loads(path.read_text())["optimizer"]["layer_decay"] == 1.0


def test_profile_of_chosen_steps(tmp_path):
    train(ToyTask(), toy_config(total_steps=3, profile_steps=(1, 2)), tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.fixture
def traced(monkeypatch):
    """Records begin and end of profiles, without profiling."""
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append("begin"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("end"))
    return events


def test_a_profile_is_written_on_interruption_and_resumed_with_the_run(tmp_path, traced):
    def interrupt(number):
        traced.append(number)
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    config = toy_config(profile_steps=(1, 3))
    with pytest.raises(Interrupted):
        train(ToyTask(on_batch=interrupt), config, tmp_path)
    assert traced == [0, 1, "begin", 2, "end"]
    traced.clear()
    train(ToyTask(on_batch=traced.append), config, tmp_path)
    assert traced == [3, "begin", "end", 4, 5]


def test_a_profile_is_written_when_the_run_ends_or_fails_within_it(tmp_path, traced):
    train(ToyTask(), toy_config(total_steps=2, profile_steps=(1, 9)), tmp_path / "ends")
    assert traced == ["begin", "end"]
    with pytest.raises(NonFiniteError):
        train(ToyTask(poison=2), toy_config(profile_steps=(1, 9)), tmp_path / "fails")
    assert traced == ["begin", "end"] * 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 12}, "batch_size 12 does not divide over 8 devices.*: 8 or 16"),
        (
            {"microbatches": 3},
            "batch_size 16 does not divide over 8 devices x 3 microbatches.*: 24 is the smallest",
        ),
        ({"total_steps": 0}, "config.total_steps is 0; expected at least 1"),
        ({"ema_decay": 1.0}, r"config.ema_decay is 1.0; expected in \[0, 1\)"),
        ({"checkpoint__best_mode": "most"}, "best_mode is 'most'; expected 'min' or 'max'"),
        ({"profile_steps": (5,)}, "profile_steps is"),
        ({"mesh__fsdp": 3}, "8 devices"),
        ({"mesh__fsdp": 8, "mesh__floor": 10**6}, "unsharded_tolerance=50%.*first/kernel"),
        ({"optimizer__schedule": "linear"}, "optimizer.schedule is 'linear'"),
        ({"optimizer__layer_decay": 0.5}, "image_encoder"),
    ],
)
def test_invalid_settings_are_errors_that_name_valid_ones(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(ToyTask(), toy_config(**changes), tmp_path)


@pytest.mark.parametrize("workdir", ["gs://bucket/runs/mae", "s3://bucket/x"])
def test_an_address_as_workdir_is_an_error(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for form in (str, pathlib.Path):
        with pytest.raises(
            ValueError, match="is an address; expected a folder. Mount the bucket on every host"
        ):
            train(ToyTask(), toy_config(), form(workdir))
    assert not list(tmp_path.iterdir()), "no folder called gs:"


def test_a_config_with_a_missing_field_is_an_error(tmp_path):
    config = toy_config()
    del config.optimizer.clip_norm
    with pytest.raises(ValueError, match="config lacks optimizer.clip_norm"):
        train(ToyTask(), config, tmp_path)
