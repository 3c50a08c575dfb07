"""A training step compiled for a slice that is not here, and what is to be told of it."""

import dataclasses
import time
from importlib import metadata
from typing import Any

import jax
import ml_collections

from segjax.scaling.arithmetic import StepTimes, operations_per_chip, step_times
from segjax.scaling.program_text import Traffic, read_traffic
from segjax.scaling.slices import GIB, Slice
from segjax.training import sharding
from segjax.training.memory import describe_out_of_memory, is_out_of_memory_error
from segjax.training.program import Program, make_program


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip: arguments (the state and its part of the batch), temporaries, code, and all at the peak."""

    arguments: int
    temporaries: int
    code: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What the compiler said.

    Attributes:
      mesh: sizes by axis. images: of a step. memory, traffic: of one chip; None where the step does not fit.
      quick: compiled in a hurry, see `compile_step`; seconds: that it took here.
      counted: operations of the model for one image, by its sizes; 0: unknown. executed: operations of one chip in one
        step, recomputation included. refusal: why it does not fit.
    """

    on: Slice
    mesh: dict[str, int]
    images: int
    microbatches: int
    quick: bool
    seconds: float
    counted: float
    executed: float
    memory: Memory | None = None
    traffic: Traffic | None = None
    refusal: str = ""

    @property
    def fits(self) -> bool:
        """Whether a chip's memory holds the step."""
        return self.memory is not None and self.memory.peak <= self.on.chip.memory_gib * GIB

    @property
    def times(self) -> StepTimes | None:
        """What a step takes at least; None where nothing was compiled."""
        return (
            None if self.traffic is None else step_times(self.on.chip, self.executed, self.traffic)
        )


def program_for(task: Any, config: ml_collections.ConfigDict, on: Slice) -> Program:
    """The program of an experiment, laid out on a slice.

    Raises what `Slice.devices`, `make_mesh`, `check_batch_size` and `make_program` raise: SetupError, ValueError.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, on.devices())
    sharding.check_batch_size(config.batch_size, config.microbatches, mesh)
    return make_program(task, config, mesh)


def compile_step(
    task: Any, config: ml_collections.ConfigDict, on: Slice, *, quick: bool = False, text: str = ""
) -> Compilation:
    """Compiles the step that training would run there.

    Args:
      task, config: as for `segjax.training.loop.train`; the config complete.
      quick: with the compiler's least effort for speed: less than half of the time, and more memory than training
        would take, for less is fused.
      text: a file for the compiled program, to read; "": none.

    Raises what `program_for` raises, and the compiler's errors but those about memory.
    """
    program = program_for(task, config, on)
    batch = task.batch_shapes(config.batch_size)
    traced = program.trace(batch)
    known = dict(
        on=on,
        mesh=dict(program.mesh.shape),
        images=config.batch_size,
        microbatches=config.microbatches,
    )
    known |= dict(
        quick=quick, counted=task.flops()[0], executed=operations_per_chip(program, traced)
    )
    began = time.perf_counter()
    try:
        compiled = traced.lower().compile(
            {"exec_time_optimization_effort": -1.0} if quick else None
        )
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory_error(error):
            raise
        refusal = describe_out_of_memory(error, config, program, batch)
        return Compilation(**known, seconds=time.perf_counter() - began, refusal=refusal)
    seconds, written = time.perf_counter() - began, compiled.as_text()
    if text:
        with open(text, "w") as file:
            file.write(written)
    sizes = compiled.memory_analysis()
    memory = Memory(
        sizes.argument_size_in_bytes,
        sizes.temp_size_in_bytes,
        sizes.generated_code_size_in_bytes,
        sizes.peak_memory_in_bytes,  # temporaries are not all alive at once, and outputs take the arguments' place
    )
    traffic = read_traffic(written, chips=on.chips, slices=on.slices)
    return Compilation(**known, seconds=seconds, memory=memory, traffic=traffic)


def report(found: Compilation) -> str:
    """The compilation in words and tables."""
    on, chip = found.on, found.on.chip
    each = found.images / on.chips
    lines = [
        f"{on}, {chip.memory_gib} GiB a chip; mesh "
        + ", ".join(f"{name} {size}" for name, size in found.mesh.items())
        + f"; {found.images} images a step, {each:g} a chip"
        + (f" in {found.microbatches} microbatches" if found.microbatches > 1 else "")
    ]
    if found.memory is None:
        return "\n".join([*lines, f"does not fit: {found.refusal}", _compiler(found)])
    memory, times = found.memory, found.times
    verdict = "fits" if found.fits else "DOES NOT FIT"
    lines += ["", "one chip, by the compiler (GiB)"]
    lines += [
        f"  {name:<12}{getattr(memory, name) / GIB:8.2f}"
        for name in ("arguments", "temporaries", "code")
    ]
    lines += [f"  {'peak':<12}{memory.peak / GIB:8.2f}  of {chip.memory_gib}: {verdict}"]
    lines += ["", "exchanges in a step, by the compiler     times  MiB whole  MiB sent by a chip"]
    ordered = sorted(
        found.traffic.collectives.items(), key=lambda item: -item[0].sent(item[1].bytes)
    )
    for collective, amount in ordered:
        name = (
            f"{collective.kind} {collective.dtype} of {collective.group}"
            + " between slices" * collective.crosses
        )
        sizes = f"{amount.bytes / 2**20:10.1f} {collective.sent(amount.bytes) / 2**20:10.1f}"
        lines.append(f"  {name:<37} {amount.times:6d} {sizes}")
    lines += ["", "arithmetic, at the chip's full rates; nothing was run"]
    counted = f"{found.counted / 1e12:.2f} of the model for an image; " if found.counted else ""
    lines.append(
        f"  operations, 1e12: {counted}{found.executed / 1e12:.2f} a chip and step, recomputation included"
    )
    for name, seconds in dataclasses.asdict(times).items():
        lines.append(
            f"  {name:<8} {1e3 * seconds:9.2f} ms" + "  <- the longest" * (name == times.bound)
        )
    lines.append(
        f"  a step takes at least {1e3 * times.least:.1f} ms ({found.images / times.least:.0f} images/s), "
        f"{1e3 * times.one_by_one:.1f} ms if nothing overlaps"
    )
    return "\n".join([*lines, "", _compiler(found)])


def table_row(name: str, found: Compilation) -> str:
    """The row of docs/guides/scaling.md: name, slice, mesh, images a chip; GiB; exchanges; compile time; least time."""
    mesh = " x ".join(str(size) for size in found.mesh.values())
    cells = [name, found.on.name, mesh, f"{found.images / found.on.chips:g}"]
    if found.memory is None:
        return (
            "| "
            + " | ".join([*cells, "", "", "does not fit", "", f"{found.seconds:.0f}", "", ""])
            + " |"
        )
    memory, times = found.memory, found.times
    sent = sum(c.sent(a.bytes) for c, a in found.traffic.collectives.items()) / GIB
    count = sum(amount.times for amount in found.traffic.collectives.values())
    cells += [f"{size / GIB:.2f}" for size in (memory.arguments, memory.temporaries, memory.peak)]
    cells += [f"{count}, {sent:.2f} GiB", f"{found.seconds:.0f}"]
    cells += [
        f"{1e3 * times.compute:.0f} / {1e3 * times.memory:.0f} / {1e3 * (times.links + times.hosts):.0f}"
    ]
    return "| " + " | ".join([*cells, f"{1e3 * times.least:.0f}"]) + " |"


def _compiler(found: Compilation) -> str:
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "libtpu"))
    quick = ", in a hurry: training takes less memory and moves less" if found.quick else ""
    return f"compiled in {found.seconds:.0f} s on this machine's CPU with {versions}{quick}"
