"""Lines that a run prints: the numbers that matter, the speed and the time left."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from segjax.training.reporting.banner import describe_devices, describe_start, make_banner
from segjax.training.reporting.progress import MOST_SHOWN, Progress, format_row
from segjax.training.sharding import make_mesh
from segjax.training.trainable.partition import Partition

TRAINING = {
    "grad_norm": 1.4,
    "later_dice": 0.8645,
    "loss": 2.9937,
    "lr": 0.005978,
    "seconds_per_step": 0.5,
    "loader_wait": 0.01,
    "images_per_second": 16.0,
    "tflops_per_chip": 0.009,
}


def test_a_row_names_chosen_metrics_speed_and_the_time_left():
    line = format_row(100, 1600, TRAINING, ["loss", "later_dice", "iou@1"])
    assert line == "step 100/1600  loss 2.994  later_dice 0.8645  lr 0.006  0.5 s/step  12:30 left"
    last = format_row(1600, 1600, TRAINING, ["loss"])
    assert last == "step 1600/1600  loss 2.994  lr 0.006  0.5 s/step"


def test_long_runs_have_hours_and_days_left():
    assert "1:00:00 left" in format_row(0, 3600, {"loss": 1.0, "seconds_per_step": 1.0})
    assert "1 day, 0:00:00 left" in format_row(0, 86400, {"loss": 1.0, "seconds_per_step": 1.0})


def test_waiting_for_data_is_said_once_it_costs_something():
    assert "waits" not in format_row(1, 2, TRAINING)
    slow = format_row(1, 2, {**TRAINING, "loader_wait": 0.43})
    assert "waits for data 43% of the time" in slow


def test_an_evaluation_is_named_and_a_task_without_a_choice_shows_its_first_metrics():
    metrics = {f"m{index}": float(index) for index in range(20)} | {"eval_seconds": 113.4}
    line = format_row(5, 9, metrics)
    assert line.startswith("eval 5/9  m0 0  m1 1") and line.endswith("took 113 s")
    assert line.count("  m") == MOST_SHOWN


def test_without_a_terminal_every_row_is_one_plain_line(capsys):
    progress = Progress(0, 10, ["loss"])
    progress.advance(1)
    progress.log(1, {"loss": 0.5})
    progress.close()
    assert capsys.readouterr().out == "step 1/10  loss 0.5\n"


def test_the_banner_names_task_model_start_data_devices_and_length():
    params = {"a": np.zeros((3, 5)), "b": jax.ShapeDtypeStruct((1000,), np.float32)}
    shapes = SimpleNamespace(params=params, constants={"c": {"d": np.zeros(85)}})
    program = SimpleNamespace(mesh=make_mesh(-1, 1), shapes=shapes, partition=Partition())
    config = {"task": "promptable", "batch_size": 16, "microbatches": 2, "total_steps": 1600}
    task = SimpleNamespace(
        describe_model=lambda: "sam_tiny on 128 x 128 pixels",
        describe_data=lambda: ["train: 18 images, 304 objects", "eval: 4 images, 60 objects"],
    )
    text = make_banner(task, config, program, "starts from here", "runs/x")
    assert text.splitlines() == [
        "task     promptable",
        "model    sam_tiny on 128 x 128 pixels, 1,015 parameters; starts from here",
        "data     train: 18 images, 304 objects; eval: 4 images, 60 objects",
        "devices  8 x cpu (data 8)",
        "run      1,600 steps of batch 16 in 2 microbatches, to runs/x",
    ]
    program.partition = Partition({"c/d"}, None, "decoder")
    text = make_banner(task, config, program, "starts from here", "runs/x")
    assert "trains 1,015 of 1,100 parameters (decoder); starts from here" in text


def test_the_start_is_named_in_the_order_in_which_it_is_looked_for():
    config = {"init_from": "sam.pth", "seed": 3}
    fresh = {"init_from": "", "seed": 3}
    assert describe_start(config, [5, 20], given=True) == "resumes its own checkpoint 20"
    assert "passed" in describe_start(config, [], given=True)
    assert describe_start(config, [], given=False) == "starts from sam.pth"
    assert "random parameters (seed 3)" in describe_start(fresh, [], given=False)


@pytest.mark.parametrize(
    ("data", "fsdp", "text"), [(8, 1, "data 8"), (2, 4, "data 2, fsdp 4"), (1, 8, "fsdp 8")]
)
def test_devices_are_described_by_kind_and_axes(data, fsdp, text):
    assert describe_devices(make_mesh(data, fsdp)) == f"8 x cpu ({text})"
