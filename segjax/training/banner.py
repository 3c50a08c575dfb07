"""Says at the start of a run, before the first compilation, what is about to be trained."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh


def format_banner(
    *,
    task: str,
    model: str,
    parameters: Any,
    start: str,
    data: Sequence[str],
    mesh: Mesh,
    config: Mapping[str, Any],
    workdir: Any,
) -> str:
    """Returns a few lines that name the task, the model, the start, the data and the devices.

    Args:
      task: Name of the task.
      model: Name of the model, with what a person should know of it.
      parameters: Tree of the trained parameters, arrays or their shapes.
      start: Where the parameters come from.
      data: One line per split, such as "train: 18 images, 304 objects of 3 classes".
      mesh: Mesh of the run, with axes ("data", "fsdp").
      config: Complete config of the run.
      workdir: Folder of the run.
    """
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(parameters))
    batch = f"batch {config['batch_size']}"
    if config["microbatches"] > 1:
        batch += f" in {config['microbatches']} microbatches"
    rows = {
        "task": f"{task}, {model}, {count:,} parameters",
        "start": start,
        "data": "; ".join(data) or "unknown",
        "devices": describe_devices(mesh),
        "run": f"{config['total_steps']:,} steps of {batch}, to {workdir}",
    }
    return "\n".join(f"{name:<8} {text}" for name, text in rows.items())


def describe_devices(mesh: Mesh) -> str:
    """Returns number, kind and layout of a mesh's devices, such as "8 x TPU v5 lite (fsdp 8)"."""
    devices = mesh.devices.ravel()
    kind = devices[0].device_kind
    axes = [f"{name} {size}" for name, size in mesh.shape.items() if size > 1]
    processes = jax.process_count()
    text = f"{len(devices)} x {kind}" + (f" ({', '.join(axes)})" if axes else "")
    return text + (f", in {processes} processes" if processes > 1 else "")
