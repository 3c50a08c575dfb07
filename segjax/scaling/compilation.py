"""Training steps compiled for TPU slices that are not attached, and the report of each."""

import dataclasses
import time
from importlib import metadata
from typing import Any

import jax
import ml_collections

from segjax.scaling.estimates import StepTimes, count_flops_per_chip, estimate_step_times
from segjax.scaling.slices import GIB, Slice
from segjax.scaling.traffic import Traffic, read_traffic
from segjax.training import sharding
from segjax.training.memory import describe_out_of_memory, is_out_of_memory_error
from segjax.training.program import Program, make_program


@dataclasses.dataclass(frozen=True)
class ChipMemory:
    """Memory of one chip in a step, in bytes.

    Attributes:
      arguments: The state, and the chip's part of the batch.
      temporaries: Intermediate arrays.
      code: The program.
      peak: Everything that is alive at the worst moment.
    """

    arguments: int
    temporaries: int
    code: int
    peak: int


@dataclasses.dataclass(frozen=True)
class Compilation:
    """Result of compiling a step.

    Attributes:
      slice: The slice that it was compiled for.
      mesh: Size of each axis of the mesh.
      images: Images in a step.
      microbatches: Number of microbatches in a step.
      quick: True if it was compiled with little effort, see `compile_step`.
      seconds: Time that compiling took on this machine.
      model_flops: Floating-point operations of the model for one image, from its sizes. 0: unknown.
      chip_flops: Floating-point operations of one chip in a step, recomputation included.
      memory: Memory of one chip. None if the step does not fit.
      traffic: Traffic of one chip. None if the step does not fit.
      refusal: Reason why the step does not fit, "" if it does.
    """

    slice: Slice
    mesh: dict[str, int]
    images: int
    microbatches: int
    quick: bool
    seconds: float
    model_flops: float
    chip_flops: float
    memory: ChipMemory | None = None
    traffic: Traffic | None = None
    refusal: str = ""

    @property
    def fits(self) -> bool:
        """True if a chip's memory holds the step."""
        return self.memory is not None and self.memory.peak <= self.slice.chip.memory_gib * GIB

    @property
    def times(self) -> StepTimes | None:
        """Lower bounds on the time of a step. None if nothing was compiled."""
        if self.traffic is None:
            return None
        return estimate_step_times(self.slice.chip, self.chip_flops, self.traffic)


def make_slice_program(task: Any, config: ml_collections.ConfigDict, target: Slice) -> Program:
    """Makes the program of an experiment, laid out on a slice.

    Args:
      task: The task.
      config: Complete config.
      target: The slice.

    Raises:
      SetupError: libtpu is not installed.
      ValueError: The mesh or the batch does not fit the slice.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, target.list_devices())
    sharding.check_batch_size(config.batch_size, config.microbatches, mesh)
    return make_program(task, config, mesh)


def compile_step(
    task: Any,
    config: ml_collections.ConfigDict,
    target: Slice,
    *,
    quick: bool = False,
    text_file: str = "",
) -> Compilation:
    """Compiles the step that training would run on a slice.

    Args:
      task: As for `segjax.training.loop.train`.
      config: As for `segjax.training.loop.train`, complete.
      target: The slice.
      quick: Compile with the least effort for speed. It takes less than half of the time. The
        result needs more memory than the step of training, because less is fused.
      text_file: File for the text of the compiled program. "": none.

    Raises:
      SetupError, ValueError: As `make_slice_program`.
      JaxRuntimeError: The compiler fails for another reason than memory.
    """
    program = make_slice_program(task, config, target)
    batch = task.batch_shapes(config.batch_size)
    traced = program.trace(batch)
    settings = dict(
        slice=target,
        mesh=dict(program.mesh.shape),
        images=config.batch_size,
        microbatches=config.microbatches,
        quick=quick,
        model_flops=task.flops()[0],
        chip_flops=count_flops_per_chip(program, traced),
    )
    # Compile
    started = time.perf_counter()
    try:
        effort = {"exec_time_optimization_effort": -1.0} if quick else None
        compiled = traced.lower().compile(effort)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory_error(error):
            raise
        refusal = describe_out_of_memory(error, config, program, batch)
        return Compilation(**settings, seconds=time.perf_counter() - started, refusal=refusal)
    seconds, text = time.perf_counter() - started, compiled.as_text()
    if text_file:
        with open(text_file, "w") as file:
            file.write(text)
    # Read memory and traffic from the compiled program
    sizes = compiled.memory_analysis()
    memory = ChipMemory(
        sizes.argument_size_in_bytes,
        sizes.temp_size_in_bytes,
        sizes.generated_code_size_in_bytes,
        # Less than the sum: temporaries are not all alive at once, and outputs reuse the arguments.
        sizes.peak_memory_in_bytes,
    )
    traffic = read_traffic(text, chips=target.chips, slices=target.slices)
    return Compilation(**settings, seconds=seconds, memory=memory, traffic=traffic)


def format_report(result: Compilation) -> str:
    """Formats a compilation as text: memory, exchanges and estimated times."""
    target, chip = result.slice, result.slice.chip
    mesh = ", ".join(f"{name} {size}" for name, size in result.mesh.items())
    head = f"{target}, {chip.memory_gib} GiB per chip; mesh {mesh}; "
    head += f"{result.images} images per step, {result.images / target.chips:g} per chip"
    if result.microbatches > 1:
        head += f" in {result.microbatches} microbatches"
    if result.memory is None:
        return "\n".join([head, f"does not fit: {result.refusal}", _describe_compiler(result)])
    sections = [
        [head],
        _format_memory(result.memory, chip.memory_gib, result.fits),
        _format_exchanges(result.traffic),
        _format_times(result),
        [_describe_compiler(result)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections)


def _format_memory(memory: ChipMemory, capacity: float, fits: bool) -> list[str]:
    lines = ["memory of one chip, by the compiler (GiB)"]
    for name in ("arguments", "temporaries", "code"):
        lines.append(f"  {name:<12}{getattr(memory, name) / GIB:8.2f}")
    verdict = "fits" if fits else "DOES NOT FIT"
    return [*lines, f"  {'peak':<12}{memory.peak / GIB:8.2f}  of {capacity}: {verdict}"]


def _format_exchanges(traffic: Traffic) -> list[str]:
    lines = ["exchanges in a step, by the compiler     times  MiB whole  MiB sent by a chip"]
    ordered = sorted(
        traffic.collectives.items(), key=lambda item: -item[0].bytes_sent(item[1].bytes)
    )
    for collective, amount in ordered:
        name = f"{collective.kind} {collective.dtype} of {collective.group}"
        name += " between slices" * collective.crosses
        sent = collective.bytes_sent(amount.bytes) / 2**20
        lines.append(f"  {name:<37} {amount.times:6d} {amount.bytes / 2**20:10.1f} {sent:10.1f}")
    return lines


def _format_times(result: Compilation) -> list[str]:
    times = result.times
    lines = ["estimate at the chip's full rates; nothing was run"]
    model = (
        f"{result.model_flops / 1e12:.2f} of the model per image; " if result.model_flops else ""
    )
    lines.append(
        f"  TFLOPs: {model}{result.chip_flops / 1e12:.2f} per chip and step with recomputation"
    )
    for name, seconds in dataclasses.asdict(times).items():
        mark = "  <- bottleneck" * (name == times.bottleneck)
        lines.append(f"  {name:<8} {1e3 * seconds:9.2f} ms{mark}")
    shortest = times.full_overlap
    lines.append(
        f"  a step takes at least {1e3 * shortest:.1f} ms ({result.images / shortest:.0f} "
        f"images/s), {1e3 * times.no_overlap:.1f} ms if nothing overlaps"
    )
    return lines


def format_table_row(name: str, result: Compilation) -> str:
    """Formats a compilation as a row of the table in docs/results/scaling.md.

    The cells are name, slice, mesh, images per chip, arguments, temporaries and peak in GiB,
    exchanges, seconds of compiling, estimated milliseconds, and the lower bound of the step.
    """
    mesh = " x ".join(str(size) for size in result.mesh.values())
    cells = [name, result.slice.name, mesh, f"{result.images / result.slice.chips:g}"]
    if result.memory is None:
        cells += ["", "", "does not fit", "", f"{result.seconds:.0f}", "", ""]
        return "| " + " | ".join(cells) + " |"
    memory, times = result.memory, result.times
    collectives = result.traffic.collectives.items()
    sent = sum(collective.bytes_sent(amount.bytes) for collective, amount in collectives) / GIB
    count = sum(amount.times for _, amount in collectives)
    # Memory
    cells += [f"{size / GIB:.2f}" for size in (memory.arguments, memory.temporaries, memory.peak)]
    cells += [f"{count}, {sent:.2f} GiB", f"{result.seconds:.0f}"]
    # Estimates
    parts = (times.compute, times.memory, times.links + times.hosts)
    cells += [" / ".join(f"{1e3 * part:.0f}" for part in parts)]
    return "| " + " | ".join([*cells, f"{1e3 * times.full_overlap:.0f}"]) + " |"


def _describe_compiler(result: Compilation) -> str:
    versions = " ".join(f"{name} {metadata.version(name)}" for name in ("jax", "jaxlib", "libtpu"))
    quick = ", quickly: training needs less memory and traffic" if result.quick else ""
    return f"compiled in {result.seconds:.0f} s on this machine's CPU with {versions}{quick}"
