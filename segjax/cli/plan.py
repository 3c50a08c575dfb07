"""`segjax train --plan`: what a run trains, and the memory and time of a step, without training."""

import math
from typing import Any

import numpy as np

# Memory in GiB, and jax's name, of devices that people own. `find_peak` knows the speed of some.
DEVICES = {
    "t4": (16, "T4"),
    "rtx3060": (12, "RTX 3060"),
    "rtx3080": (10, "RTX 3080"),
    "rtx4090": (24, "RTX 4090"),
    "v100": (32, "V100"),
    "a100": (40, "A100"),
    "a100-80": (80, "A100"),
    "h100": (80, "H100"),
    "h200": (141, "H200"),
    "v5e": (16, "TPU v5e"),
    "v6e": (32, "TPU v6e"),
}
HERE = "here"
_GIB = 2**30
# Share of the peak at which the time is estimated
_UTILIZATION = 0.3


def describe_plan(task: Any, config: Any, device: str = HERE) -> str:
    """Describes an experiment: parameters, memory of the compiled step, and its operations.

    Reads no data and trains nothing. The step is compiled for the devices at hand.

    Args:
      task: the task.
      config: complete config of the run.
      device: name of `DEVICES` to compare with, or "here".

    Raises:
      ValueError: an unknown device.
    """
    import jax

    from segjax.scaling.estimates import count_flops
    from segjax.scaling.measurement import count_program_bytes
    from segjax.training import sharding
    from segjax.training.program import make_program
    from segjax.training.reporting.banner import describe_devices, describe_parameters

    if device != HERE and device not in DEVICES:
        raise ValueError(f"--plan {device!r} is unknown; expected one of {', '.join(DEVICES)}")
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    sharding.check_batch_size(config.batch_size, config.microbatches, mesh)
    program = make_program(task, config, mesh)
    batch = task.batch_shapes(config.batch_size)
    traced = program.trace(batch)
    with jax.set_mesh(mesh):
        compiled = traced.lower().compile()
    state = {name: _count_bytes(getattr(program.shapes, name)) for name in _STATE}
    peak = count_program_bytes(compiled.memory_analysis())
    flops = count_flops(traced.jaxpr.jaxpr)
    if_trained = task.flops()[0] * config.batch_size
    lines = [
        f"{'model':<18} {task.describe_model()}, {describe_parameters(program)}",
        f"{'devices':<18} {describe_devices(mesh)}",
        *_list_groups(program),
        f"{'bytes of':<18} parameters {_show(state['params'])}, frozen and constant "
        f"{_show(state['constants'])}, optimizer {_show(state['opt_state'])}, moving average "
        f"{_show(state['ema'])}, gradients {_show(state['params'])}",
        f"{'batch':<18} {config.batch_size} images, {_show(_count_bytes(batch))}",
        f"{'peak memory':<18} {_show(peak)} a device, as compiled for {jax.default_backend()}",
        f"{'operations':<18} {flops / 1e12:.3g} TFLOP a step, "
        f"{flops * config.total_steps / 1e15:.3g} PFLOP in {config.total_steps:,} steps "
        f"({if_trained / 1e12:.3g} TFLOP a step by formula if nothing were frozen)",
    ]
    if device != HERE:
        lines.append(_compare(device, peak, flops / mesh.size, config.total_steps))
    return "\n".join(lines)


_STATE = ("params", "constants", "opt_state", "ema")


def _list_groups(program: Any) -> list[str]:
    """Returns a line for each module at the top of the model: its parameters, and the trained."""
    from segjax.weights.tree import flatten

    counts: dict[str, list[int]] = {}
    for path, leaf in flatten(program.variable_shapes["params"]).items():
        group = counts.setdefault(path.split("/")[0], [0, 0])
        group[0] += math.prod(leaf.shape)
        group[1] += math.prod(leaf.shape) * (path not in program.partition.frozen)
    rows = [
        f"  {name:<16} {total:>13,} parameters, {trained:>13,} trained"
        for name, (total, trained) in counts.items()
    ]
    if adapters := program.shapes.params.get("lora"):
        count = sum(math.prod(leaf.shape) for leaf in flatten(adapters).values())
        rows.append(f"  {'adapters':<16} {count:>13,} parameters, {count:>13,} trained")
    return rows


def _count_bytes(tree: Any) -> int:
    import jax

    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf.dtype, np.dtype)]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _show(size: float) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= 0.1 * _GIB else f"{size / 2**20:.1f} MiB"


def _compare(device: str, peak: int, flops: float, steps: int) -> str:
    """Returns whether the step fits on a device, and an estimate of its time."""
    from segjax.training.throughput import find_peak

    memory, kind = DEVICES[device]
    tflops = find_peak(kind)
    # Allocators and the driver keep a tenth
    verdict = "fits" if peak < 0.9 * memory * _GIB else "does not fit"
    text = f"{device:<18} {memory} GiB: the step {verdict} (estimate: compiled for another device)"
    if not tflops or not flops:
        return text
    seconds = flops / (tflops * 1e12 * _UTILIZATION)
    return (
        f"{text}; {seconds:.3g} s a step and {seconds * steps / 60:.3g} min in all at "
        f"{_UTILIZATION:.0%} of {tflops:g} TFLOP/s (bfloat16)"
    )


def run_plan(config: Any, device: str) -> None:
    """Prints the plan of an experiment, see `describe_plan`."""
    from segjax.tasks import complete_config, make_task

    print(describe_plan(make_task(config), complete_config(config), device))
