"""Says at the start of a run, before the first compilation, what is about to be trained."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from segjax.training.program import Program
from segjax.training.task import Task
from segjax.training.trainable.partition import count_trained


def make_banner(
    task: Task, config: Mapping[str, Any], program: Program, start: str, workdir: pathlib.Path
) -> str:
    """Returns a few lines that name the task, the model, the start, the data and the devices.

    Args:
      task: The task, which describes its model and data.
      config: Complete config of the run.
      program: Gives the shapes of the parameters, and the mesh.
      start: Where the parameters come from, see `describe_start`.
      workdir: Folder of the run.
    """
    batch = f"batch {config['batch_size']}"
    if config["microbatches"] > 1:
        batch += f" in {config['microbatches']} microbatches"
    rows = {
        "task": config.get("task") or type(task).__name__,
        "model": f"{task.describe_model()}, {describe_parameters(program)}; {start}",
        "data": "; ".join(task.describe_data()) or "unknown",
        "devices": describe_devices(program.mesh),
        "run": f"{config['total_steps']:,} steps of {batch}, to {workdir}",
    }
    return "\n".join(f"{name:<8} {text}" for name, text in rows.items())


def describe_parameters(program: Program) -> str:
    """Returns the number of parameters, and of those that are trained if some are frozen."""
    shapes, partition = program.shapes, program.partition
    trained, total = count_trained(shapes.params, shapes.constants, partition.frozen)
    if trained == total:
        return f"{total:,} parameters"
    return f"trains {trained:,} of {total:,} parameters ({partition.name})"


def describe_start(config: Mapping[str, Any], saved: Sequence[int], *, given: bool) -> str:
    """Returns where the parameters of a run come from, in the order in which it looks for them.

    Args:
      config: Config of the run.
      saved: Steps of the run's own checkpoints.
      given: True if the caller has passed variables.
    """
    if saved:
        return f"resumes its own checkpoint {max(saved)}"
    if given:
        return "starts from the variables that were passed"
    if config["init_from"]:
        return f"starts from {config['init_from']}"
    return f"starts from random parameters (seed {config['seed']})"


def describe_devices(mesh: Mesh) -> str:
    """Returns number, kind and layout of a mesh's devices, such as "8 x TPU v5 lite (fsdp 8)"."""
    devices = mesh.devices.ravel()
    kind = devices[0].device_kind
    axes = [f"{name} {size}" for name, size in mesh.shape.items() if size > 1]
    processes = jax.process_count()
    text = f"{len(devices)} x {kind}" + (f" ({', '.join(axes)})" if axes else "")
    return text + (f", in {processes} processes" if processes > 1 else "")
