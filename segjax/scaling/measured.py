"""A training step that is run on devices that are here, beside what the arithmetic says of it.

CPU devices can be feigned (`jax_num_cpu_devices`), so that a machine without accelerators has several. They share its
cores, its memory and its way to the memory, and the arithmetic takes that into account: each has its share of rates
that are measured in the same process.
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

from segjax.scaling.arithmetic import StepTimes, operations_per_chip, step_times
from segjax.scaling.program_text import Traffic, read_traffic
from segjax.scaling.slices import Chip
from segjax.training import sharding
from segjax.training.program import make_program
from segjax.training.program import initialize_state


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a machine reaches, with all its cores.

    Attributes:
      products: float32 operations a second, two a multiply-add. memory: bytes a second, those read and those written.
    """

    products: float
    memory: float

    def share(self, devices: int) -> Chip:
        """What one of so many devices has, all of them being busy. What it sends, the memory reads and writes."""
        memory = self.memory / devices / 1e9
        return Chip(
            tflops=self.products / devices / 1e12,
            memory_gib=float("inf"),
            memory_gbs=memory,
            link_gbs=memory / 4,  # there are two of them
            hosts_gbs=float("inf"),
        )


def measured_rates(width: int = 2048, mib: int = 256, repeats: int = 5) -> Rates:
    """The best of some products of `width` x `width` matrices, and of some passes over an array of `mib` MiB."""
    device = jax.devices()[0]
    matrix = jax.device_put(
        np.random.default_rng(0).standard_normal((width, width), np.float32), device
    )
    array = jax.device_put(np.ones(mib * 2**18, np.float32), device)
    product, negative = jax.jit(jnp.matmul), jax.jit(jnp.negative)
    products, passes = (
        min(_seconds(call, repeats + 1)[1:])
        for call in (functools.partial(product, matrix, matrix), functools.partial(negative, array))
    )
    return Rates(2 * width**3 / products, 2 * mib * 2**20 / passes)


def _seconds(call: Callable[[], Any], repeats: int) -> list[float]:
    """Of each call, waited for."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    return taken


@dataclasses.dataclass(frozen=True)
class Measured:
    """A step on devices that are here.

    Attributes:
      mesh: sizes by axis. images: of a step. seconds: of each counted step. loss: of the first step.
      executed: operations of one device in a step. traffic: of one device. rates: of the machine.
    """

    mesh: dict[str, int]
    images: int
    seconds: tuple[float, ...]
    loss: float
    executed: float
    traffic: Traffic
    rates: Rates

    @property
    def devices(self) -> int:
        """How many took part."""
        return int(np.prod(list(self.mesh.values())))

    @property
    def step(self) -> float:
        """The median of the counted steps, seconds."""
        return float(np.median(self.seconds))

    @property
    def times(self) -> StepTimes:
        """What the arithmetic says of the step."""
        return step_times(self.rates.share(self.devices), self.executed, self.traffic)


def measure_step(
    task: Any,
    config: ml_collections.ConfigDict,
    devices: Sequence[jax.Device],
    rates: Rates,
    *,
    steps: int = 10,
) -> Measured:
    """Compiles the step that training would run on these devices, and runs it on one batch again and again.

    Args:
      task, config: as for `segjax.training.loop.train`; the config complete.
      steps: that are counted, after one that is not.

    Raises what `make_mesh`, `check_batch_size` and `make_program` raise: ValueError.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
    sharding.check_batch_size(config.batch_size, config.microbatches, mesh)
    program = make_program(task, config, mesh)
    batches = task.batches(
        "train",
        batch_size=config.batch_size,
        start=0,
        process_index=0,
        process_count=1,
        seed=config.seed,
    )
    batch = sharding.place_batch(next(batches), mesh)
    getattr(batches, "close", lambda: None)()
    traced = program.trace(batch)
    compiled = traced.lower().compile()
    with jax.set_mesh(mesh):
        state = initialize_state(task, program, config.seed, {})
        losses, seconds = _run(compiled, state, batch, steps + 1)
    return Measured(
        mesh=dict(mesh.shape),
        images=config.batch_size,
        seconds=tuple(seconds[1:]),
        loss=losses[0],
        executed=operations_per_chip(program, traced),
        traffic=read_traffic(compiled.as_text(), chips=mesh.size),
        rates=rates,
    )


def _run(step: Any, state: Any, batch: Any, times: int) -> tuple[list[float], list[float]]:
    """Losses and seconds of so many steps."""
    key, losses = state.key, []

    def call() -> Any:
        nonlocal state
        state, metrics = step(state.replace(key=None), key, batch)
        losses.append(metrics["loss"])
        return state, metrics

    seconds = _seconds(call, times)
    return [float(loss) for loss in losses], seconds


HEAD = (
    "| devices | mesh | ms a step | images/s | of the first | exchanges | MiB sent by a device "
    "| arithmetic, ms | of the longest | of the sum | loss |\n" + "|---" * 11 + "|"
)


def table_row(found: Measured, first: Measured) -> str:
    """The row of docs/guides/scaling.md; `HEAD` names its cells.

    `of the first` is throughput by that of `first`; `arithmetic` products, memory and exchanges; `of the longest` and
    `of the sum` how many times as long as the arithmetic says the step takes, if all overlap and if nothing does.
    """
    times, amounts = found.times, found.traffic.collectives.items()
    sent = sum(collective.sent(amount.bytes) for collective, amount in amounts) / 2**20
    cells = [
        f"{found.devices}",
        " x ".join(map(str, found.mesh.values())),
        f"{1e3 * found.step:.0f}",
    ]
    throughput = found.images / found.step
    cells += [f"{throughput:.1f}", f"{throughput / (first.images / first.step):.2f}"]
    cells += [f"{sum(amount.times for _, amount in amounts)}", f"{sent:.1f}"]
    cells += [
        " / ".join(f"{1e3 * part:.0f}" for part in (times.compute, times.memory, times.links))
    ]
    cells += [f"{found.step / times.least:.2f}", f"{found.step / times.one_by_one:.2f}"]
    return "| " + " | ".join([*cells, f"{found.loss:.5f}"]) + " |"
