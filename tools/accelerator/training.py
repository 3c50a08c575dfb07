"""Training steps of segjax's experiments."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from accelerator.batches import draw_batch
from accelerator.inference import list_attentions
from accelerator.timing import GIB, attempt_each
from segjax.cli.experiments import read_config
from segjax.cli.memory import keep_freed_memory
from segjax.cli.overrides import apply_flags
from segjax.scaling.measurement import compile_on_devices, count_program_bytes
from segjax.tasks import complete_config, make_task
from segjax.training.throughput import compute_utilization, peak_tflops


def train(
    experiment: str, flags: Sequence[str], steps: int = 10, attention: bool = True
) -> Iterator[dict[str, Any]]:
    """Yields the speed and memory of an experiment's step, per attention.

    Args:
      experiment: Name of the experiment.
      flags: Arguments of `segjax train` of the form --config.key=value.
      steps: Number of measured steps. One more runs before them.
      attention: Whether the model has attention.
    """
    keep_freed_memory()

    def measure(impl: str) -> dict[str, Any]:
        chosen = [f"--config.model.attention={impl}"] if attention else []
        # No file is read: weights are fresh, and the batch is drawn.
        config = apply_flags(read_config(experiment), [*flags, *chosen, "--config.init_from="])
        return measure_step(config, steps)

    sides = list_attentions() if attention else ("",)
    rows = {
        impl: dict(model=experiment, side=f"segjax, {impl}" if impl else "segjax") for impl in sides
    }
    yield from attempt_each(rows, measure)


def measure_step(config: Any, steps: int) -> dict[str, Any]:
    """Compiles and runs the step of a config.

    Args:
      config: Config of the experiment.
      steps: Number of measured steps.

    Raises:
      ValueError: The loss is not finite, so the step is not the one to measure.
    """
    task = make_task(config)
    batch = draw_batch(task.batch_shapes(config.batch_size))
    step = compile_on_devices(task, complete_config(config), jax.devices(), batch)
    losses, seconds = step.run(steps + 1)
    if not np.isfinite(losses).all():
        raise ValueError(f"the loss is not finite: {losses}")
    median = float(np.median(seconds[1:]))
    flops, dtype = task.flops()
    peak, chips = peak_tflops(jax.devices()[0], dtype), step.program.mesh.size
    memory = count_program_bytes(step.compiled.memory_analysis())
    return {
        "batch": config.batch_size,
        "ms": 1e3 * median,
        "lowest_ms": 1e3 * min(seconds[1:]),
        "steps_per_second": 1 / median,
        "compile_seconds": step.compile_seconds,
        "memory_gib": memory / GIB,
        **compute_utilization(config.batch_size / median, flops, chips, peak),
    }
