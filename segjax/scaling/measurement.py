"""Training steps that are run on the devices of this machine, beside their estimates.

A machine without accelerators can simulate several CPU devices (`jax_num_cpu_devices`). They share
its cores, its memory and its memory bandwidth. The estimates take that into account: each device
has its share of rates that are measured in the same process.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from segjax.scaling.estimates import StepTimes, count_flops_per_chip, estimate_step_times
from segjax.scaling.slices import Chip
from segjax.scaling.traffic import Traffic, read_traffic
from segjax.training import sharding
from segjax.training.program import Program, initialize_state, make_program
from segjax.training.task import Batch


@dataclasses.dataclass(frozen=True)
class Rates:
    """Rates that a machine reaches with all its cores.

    Attributes:
      flops: float32 operations per second in matrix products. A multiply-add counts as two.
      memory: Bytes per second that are read or written.
    """

    flops: float
    memory: float

    def divide(self, devices: int) -> Chip:
        """Returns the rates of one of several busy devices. They exchange through the memory."""
        memory = self.memory / devices / 1e9
        return Chip(
            tflops=self.flops / devices / 1e12,
            memory_gib=float("inf"),
            memory_gbs=memory,
            link_gbs=memory / 4,  # two links, and everything sent is both written and read
            hosts_gbs=float("inf"),
        )


def measure_rates(width: int = 2048, mib: int = 256, repeats: int = 5) -> Rates:
    """Measures the rates of this machine.

    Args:
      width: Side of the square matrices that are multiplied.
      mib: Size in MiB of the array that is read and written.
      repeats: Number of repetitions, of which the best counts.
    """
    device = jax.devices()[0]
    # Operands
    matrix = jax.device_put(
        np.random.default_rng(0).standard_normal((width, width), np.float32), device
    )
    array = jax.device_put(np.ones(mib * 2**18, np.float32), device)
    multiply = functools.partial(jax.jit(jnp.matmul), matrix, matrix)
    negate = functools.partial(jax.jit(jnp.negative), array)
    # The first call compiles.
    product, copy = (min(time_calls(call, repeats + 1)[1:]) for call in (multiply, negate))
    return Rates(2 * width**3 / product, 2 * mib * 2**20 / copy)


def time_calls(call: Callable[[], Any], repeats: int) -> list[float]:
    """Calls a function several times and returns the seconds until each result is ready.

    Args:
      call: The function. It returns arrays.
      repeats: Number of calls. The first one may compile.
    """
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return seconds


@dataclasses.dataclass(frozen=True)
class MeasuredStep:
    """A step that was run on devices of this machine.

    Attributes:
      mesh: Size of each axis of the mesh.
      images: Images in a step.
      seconds: Time of each measured step.
      loss: Loss of the first step.
      device_flops: Floating-point operations of one device in a step.
      traffic: Traffic of one device in a step.
      rates: Rates of the machine.
    """

    mesh: dict[str, int]
    images: int
    seconds: tuple[float, ...]
    loss: float
    device_flops: float
    traffic: Traffic
    rates: Rates

    @property
    def devices(self) -> int:
        """Number of devices."""
        return int(np.prod(list(self.mesh.values())))

    @property
    def median(self) -> float:
        """Median of the measured steps in seconds."""
        return float(np.median(self.seconds))

    @property
    def times(self) -> StepTimes:
        """Estimated times of the step."""
        return estimate_step_times(self.rates.divide(self.devices), self.device_flops, self.traffic)


def measure_step(
    task: Any,
    config: ml_collections.ConfigDict,
    devices: Sequence[jax.Device],
    rates: Rates,
    *,
    steps: int = 10,
) -> MeasuredStep:
    """Compiles the step that training would run, and runs it repeatedly on one batch.

    Args:
      task: As for `segjax.training.loop.train`.
      config: As for `segjax.training.loop.train`, complete.
      devices: Devices to run on.
      rates: Rates of the machine, for the estimate.
      steps: Number of measured steps. One more runs before them.

    Raises:
      ValueError: The mesh or the batch does not fit the devices.
    """
    # One batch, which every step uses again
    loaded = load_batch(task, config)
    step = compile_on_devices(task, config, devices, loaded)
    losses, seconds = step.run(steps + 1)
    return MeasuredStep(
        mesh=dict(step.program.mesh.shape),
        images=config.batch_size,
        seconds=tuple(seconds[1:]),
        loss=losses[0],
        device_flops=count_flops_per_chip(step.program, step.traced),
        traffic=read_traffic(step.compiled.as_text(), chips=step.program.mesh.size),
        rates=rates,
    )


def load_batch(task: Any, config: ml_collections.ConfigDict) -> Batch:
    """Returns the first batch of a run."""
    batches = task.batches(
        "train",
        batch_size=config.batch_size,
        start=0,
        process_index=0,
        process_count=1,
        seed=config.seed,
    )
    batch = next(batches)
    batches.close()
    return batch


@dataclasses.dataclass(frozen=True)
class StepOnDevices:
    """A training step that is compiled for devices of this machine, and a batch to run it on.

    Attributes:
      task: Initializes the state.
      seed: Seed of the state.
      program: The step and the layout of its state.
      traced: The traced step.
      compiled: The compiled step.
      compile_seconds: Time of the compilation.
      batch: The batch, on the devices.
    """

    task: Any
    seed: int
    program: Program
    traced: jax.stages.Traced
    compiled: jax.stages.Compiled
    compile_seconds: float
    batch: dict[str, jax.Array]

    def run(self, times: int) -> tuple[list[float], list[float]]:
        """Runs the step several times from a fresh state.

        Args:
          times: Number of steps. All of them use the same batch.

        Returns:
          The loss and the seconds of each step.
        """
        losses = []
        # The state is donated from step to step
        with jax.set_mesh(self.program.mesh):
            state = initialize_state(self.task, self.program, self.seed, {})
            key = state.key

            def run_step() -> Any:
                nonlocal state
                state, metrics = self.compiled(state.replace(key=None), key, self.batch)
                losses.append(metrics["loss"])
                return state, metrics

            seconds = time_calls(run_step, times)
        return [float(loss) for loss in losses], seconds


def compile_on_devices(
    task: Any, config: ml_collections.ConfigDict, devices: Sequence[jax.Device], batch: Batch
) -> StepOnDevices:
    """Compiles the step that training would run.

    Args:
      task: As for `segjax.training.loop.train`.
      config: As for `segjax.training.loop.train`, complete.
      devices: Devices to run on.
      batch: A batch of the task, with or without its `index`.

    Raises:
      ValueError: The mesh or the batch does not fit the devices.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    sharding.check_batch_size(config.batch_size, config.microbatches, mesh)
    program = make_program(task, config, mesh)
    placed = sharding.place_batch(batch, mesh)
    # Compile
    traced = program.trace(placed)
    started = time.perf_counter()
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - started
    return StepOnDevices(task, config.seed, program, traced, compiled, seconds, placed)


def count_program_bytes(memory: Any) -> int:
    """Counts the bytes of a compiled program: arguments, results and what lies in between.

    Args:
      memory: Its `memory_analysis()`.
    """
    parts = ("argument", "output", "temp")
    total = sum(getattr(memory, f"{part}_size_in_bytes") for part in parts)
    return total - memory.alias_size_in_bytes  # donated arguments become results


HEAD = (
    "| devices | mesh | ms per step | images/s | relative | exchanges | MiB sent per device "
    "| compute / memory / network, ms | measured / longest | measured / sum | loss |\n"
    + "|---" * 11
    + "|"
)


def format_table_row(step: MeasuredStep, first: MeasuredStep) -> str:
    """Formats a step as a row of the table whose head is `HEAD`.

    `relative` is the throughput relative to that of `first`. `measured / longest` compares the step
    with an estimate in which everything overlaps, `measured / sum` with one in which nothing does.
    """
    times, amounts = step.times, step.traffic.collectives.items()
    sent = sum(collective.bytes_sent(amount.bytes) for collective, amount in amounts) / 2**20
    throughput, reference = step.images / step.median, first.images / first.median
    parts = (times.compute, times.memory, times.links)
    cells = [
        f"{step.devices}",
        " x ".join(map(str, step.mesh.values())),
        f"{1e3 * step.median:.0f}",
        f"{throughput:.1f}",
        f"{throughput / reference:.2f}",
        f"{sum(amount.times for _, amount in amounts)}",
        f"{sent:.1f}",
        " / ".join(f"{1e3 * part:.0f}" for part in parts),
        f"{step.median / times.full_overlap:.2f}",
        f"{step.median / times.no_overlap:.2f}",
        f"{step.loss:.5f}",
    ]
    return "| " + " | ".join(cells) + " |"
