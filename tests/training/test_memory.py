"""Out-of-memory errors, simulated."""

import pathlib
import re

import jax
import pytest

from segjax.cli.experiments import read_config
from segjax.tasks import complete_config
from segjax.training import step
from segjax.training.loop import train
from segjax.training.memory import OutOfMemoryError, parse_needed_gib, suggest_settings

from .toy import ToyTask, toy_config

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2] / "experiments"
COMPILER = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(23.89G) exceeds available HBM (15.75G)."
)


def test_an_out_of_memory_error_names_the_largest_arrays_and_settings_that_help(
    tmp_path, monkeypatch
):
    def run_out(self, state, batch):
        raise jax.errors.JaxRuntimeError(COMPILER)

    monkeypatch.setattr(step.TrainStep, "__call__", run_out)
    with pytest.raises(OutOfMemoryError) as caught:
        train(ToyTask(hidden=2**14), toy_config(batch_size=64), tmp_path)
    message = str(caught.value)
    assert message.startswith(
        "step 0: out of memory: each device needs 23.89 GiB and has 15.75 GiB."
    )
    assert "activations of 8 images at a time" in message
    # 16 x 16384 float32 are 1 MiB, in parameters and both moments; 0.00 GiB, but the largest.
    assert re.search(r"Largest arrays of the state: (params/first/kernel|opt_state)", message)
    assert (
        "--config.microbatches=2" in message
        and "--config.mesh.fsdp=8" in message
        and "more devices" in message
    )


def test_other_device_errors_are_not_changed(tmp_path, monkeypatch):
    def fail(self, state, batch):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such thing")

    monkeypatch.setattr(step.TrainStep, "__call__", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        train(ToyTask(), toy_config(), tmp_path)


@pytest.mark.parametrize(
    "message, amounts",
    [
        (COMPILER, (23.89, 15.75)),
        (
            "RESOURCE_EXHAUSTED: ... in memory space hbm. Used 17.5G of 15.75G hbm. Exceeded",
            (17.5, 15.75),
        ),
        ("Used 512.00M of 15.75G hbm", (0.5, 15.75)),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.", None),
    ],
)
def test_needed_memory_is_parsed_from_compiler_messages(message, amounts):
    assert parse_needed_gib(message) == amounts


def names(suggestions):
    return [line.split(" ")[0].split("=")[0].removeprefix("--config.") for line in suggestions]


def test_suggestions_leave_out_settings_in_use():
    config = complete_config(read_config(str(EXPERIMENTS / "sam" / "coco.py")))
    suggested = names(suggest_settings(config, devices=16))
    assert suggested == ["model.prompts_at_once", "microbatches", "mesh.fsdp", "rounds.sampled"]
    assert names(suggest_settings(config, devices=16, state_first=True))[0] == "mesh.fsdp"
    plain = complete_config({"task": "promptable", "batch_size": 16})
    assert names(suggest_settings(plain, devices=16))[:3] == [
        "model.dtype",
        "model.remat",
        "mesh.fsdp",
    ]
    config.batch_size, config.mesh.fsdp = 16, 16
    assert names(suggest_settings(config, devices=16))[
        -1
    ] == "more" and "microbatches" not in names(suggest_settings(config, devices=16))
