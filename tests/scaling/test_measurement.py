"""Steps on simulated devices: exchanges and flops worked out by hand, and the rows of the table."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest
from training.toy import HIDDEN, INPUTS, ToyTask, examples, toy_config

from segjax.scaling.estimates import StepTimes, count_flops_per_chip
from segjax.scaling.measurement import (
    HEAD,
    MeasuredStep,
    Rates,
    format_table_row,
    measure_rates,
    measure_step,
)
from segjax.scaling.traffic import Amount, Collective, Traffic
from segjax.training.program import make_program
from segjax.training.sharding import make_mesh, place_batch

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "device_scaling.py"
# Of 16 rows: forward, the gradients of both matrices, and that of the second one's input.
FLOPS = 2 * 16 * (2 * INPUTS * HIDDEN + 3 * HIDDEN)
RATES = Rates(flops=80e9, memory=20e9)


def measure(devices, fsdp=1):
    """Measures the toy step of 16 rows on several devices."""
    config = toy_config(mesh__fsdp=fsdp, mesh__unsharded_tolerance=1.0)
    return measure_step(ToyTask(), config, jax.devices()[:devices], RATES, steps=3)


def test_a_step_on_one_device_two_and_two_that_share_the_parameters():
    one, two, split = measure(1), measure(2), measure(2, fsdp=2)
    assert [step.mesh for step in (one, two, split)] == [
        {"data": 1, "fsdp": 1},
        {"data": 2, "fsdp": 1},
        {"data": 1, "fsdp": 2},
    ]
    assert one.loss == pytest.approx(two.loss, rel=1e-5) == pytest.approx(split.loss, rel=1e-5)
    assert len(one.seconds) == 3 and min(one.seconds) > 0
    assert (one.device_flops, two.device_flops, split.device_flops) == (
        FLOPS,
        FLOPS / 2,
        FLOPS / 2,
    )

    assert not one.traffic.collectives and split.traffic.collectives
    parameters = INPUTS * HIDDEN + HIDDEN + HIDDEN + 1
    (exchange,) = two.traffic.collectives  # all gradients, and the sums of the loss
    assert (exchange.kind, exchange.dtype, exchange.group) == ("all-reduce", "f32", 2)
    sent = exchange.bytes_sent(two.traffic.collectives[exchange].bytes)
    assert 4 * parameters < sent <= 4 * (parameters + 4)


def test_every_device_repeats_muon_s_work_on_replicated_parameters():
    def count(data, fsdp, name):
        mesh = make_mesh(data, fsdp, jax.devices()[: data * fsdp])
        config = toy_config(optimizer__name=name, mesh__unsharded_tolerance=1.0)
        program = make_program(ToyTask(), config, mesh)
        return count_flops_per_chip(program, program.trace(place_batch(examples(0, 16), mesh)))

    update = count(1, 1, "muon") - FLOPS
    assert count(1, 1, "adamw") == FLOPS and update > 0
    assert count(2, 1, "muon") == FLOPS / 2 + update
    assert count(2, 2, "muon") == FLOPS / 4 + update / 2


def test_devices_share_the_rates_of_the_machine():
    """Each of 4 devices has a quarter of the rates, and sends by writing and reading memory."""
    exchange = {Collective("all-gather", "f32", 4): Amount(3, 4 / 3 * 1e9)}
    step = MeasuredStep(
        {"data": 2, "fsdp": 2}, 8, (3.0, 2.0, 2.5), 1.25, 20e9, Traffic(exchange, 2.5e9), RATES
    )
    assert step.devices == 4 and step.median == 2.5
    assert step.times == StepTimes(*(pytest.approx(seconds) for seconds in (1.0, 0.5, 0.4, 0.0)))
    first = MeasuredStep({"data": 1, "fsdp": 1}, 8, (2.0,), 1.25, 80e9, Traffic({}, 10e9), RATES)
    row = "| 4 | 2 x 2 | 2500 | 3.2 | 0.80 | 3 | 953.7 | 1000 / 500 / 400 | 2.50 | 1.32 | 1.25000 |"
    assert format_table_row(step, first) == row
    assert HEAD.splitlines()[0].count("|") == HEAD.splitlines()[1].count("|") == row.count("|")


def test_rates_are_flops_and_bytes_per_second(monkeypatch):
    """In 0.5 s each: 2 * 64 ** 3 flops, and 1 MiB read and written."""
    monkeypatch.setattr(
        "segjax.scaling.measurement.time_calls",
        lambda call, repeats: [9.0, *[0.5] * (repeats - 1)],
    )
    rates = measure_rates(width=64, mib=1, repeats=2)
    assert rates == Rates(flops=2 * 64**3 / 0.5, memory=2 * 2**20 / 0.5)


@pytest.mark.slow
def test_the_tool_prints_a_row_per_number_of_devices():
    def run(*flags):
        command = [sys.executable, TOOL, "--config=experiments/mae/quickstart.py:debug", *flags]
        paths = {
            "PYTHONPATH": str(TOOL.parents[1]),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }  # compiles faster
        return subprocess.run(
            command, cwd=TOOL.parents[1], env=os.environ | paths, capture_output=True, text=True
        )

    result = run("--devices=1,2", "--fsdp", "--steps=2", "--config.mesh.unsharded_tolerance=0.5")
    assert result.returncode == 0, result.stderr
    rows = [line.split(" | ") for line in result.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[:2] for row in rows] == [["| 1", "1 x 1"], ["| 2", "2 x 1"], ["| 2", "1 x 2"]]
    assert len({row[-1] for row in rows}) == 1, "the same loss"
    result = run("--devices=3")
    assert result.returncode == 2 and "batch_size 4 does not divide over 3 devices" in result.stderr
