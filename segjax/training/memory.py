"""Out of memory: which arrays are largest, and which settings make a run fit."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections

from segjax.training.optimizer import parameter_path
from segjax.training.program import Program

GIB = 2**30
_LISTED = 3  # largest arrays and suggestions in the message


class OutOfMemoryError(RuntimeError):
    """Error of a step that does not fit on the devices, with suggestions in the message."""


@contextlib.contextmanager
def explain_out_of_memory(
    program: Program,
    complete_config: Callable[[], ml_collections.ConfigDict],
    batch: Mapping[str, Any],
    step: int,
) -> Iterator[None]:
    """Turns a device's out-of-memory error inside the block into an OutOfMemoryError.

    Args:
      program: The program of the run.
      complete_config: Returns the run's config with every setting.
      batch: The batch on the devices, arrays or shapes.
      step: Number of the step.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory_error(error):
            raise
        message = describe_out_of_memory(error, complete_config(), program, batch)
        raise OutOfMemoryError(f"step {step}: {message}") from error


def is_out_of_memory_error(error: BaseException) -> bool:
    """Returns whether the devices, or the compiler for them, ran out of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def parse_needed_gib(message: str) -> tuple[float, float] | None:
    """Reads the memory that a program needs from a message of the TPU compiler.

    Returns:
      (GiB needed, GiB available), or None if the message has no such numbers.
    """
    for pattern in (
        r"\(([\d.]+)([MGT])\) exceeds available HBM \(([\d.]+)([MGT])\)",
        r"Used ([\d.]+)([MGT]) of ([\d.]+)([MGT])",
    ):
        if match := re.search(pattern, message):
            needed, unit, available, other_unit = match.groups()
            scale = {"M": 1 / 1024, "G": 1.0, "T": 1024.0}
            return float(needed) * scale[unit], float(available) * scale[other_unit]
    return None


def describe_out_of_memory(
    error: BaseException,
    config: ml_collections.ConfigDict,
    program: Program,
    batch: Mapping[str, Any],
) -> str:
    """Describes the missing memory, the largest arrays, and three settings that would help.

    Args:
      error: The error of the devices or of the compiler.
      config: The run's config with every setting.
      program: The program of the run.
      batch: The batch on the devices, arrays or shapes.
    """
    # The amount that is missing
    message = str(error)
    if amounts := parse_needed_gib(message):
        cause = f"each device needs {amounts[0]:.2f} GiB and has {amounts[1]:.2f} GiB"
    else:
        cause = message.split("RESOURCE_EXHAUSTED:")[-1].strip().splitlines()[0]

    # The arrays that are known: state and batch
    arrays = count_state_bytes(program.shapes, program.shardings)
    state = sum(arrays.values()) / GIB
    largest = sorted(arrays.items(), key=lambda item: -item[1])[:_LISTED]
    devices = program.mesh.size
    images = sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values()) / devices / GIB
    per_pass = config.batch_size / devices / config.microbatches
    state_first = state > (amounts[1] / 3 if amounts else 4.0)
    return "\n  ".join(
        [
            f"out of memory: {cause}. Each device holds {state:.2f} GiB of the state, "
            f"{images:.2f} GiB of the batch, and the activations of {per_pass:g} "
            f"image{'s' * (per_pass != 1)} at a time. Largest arrays of the state: "
            + ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in largest)
            + ". Settings that help:",
            *suggest_settings(config, devices, state_first=state_first)[:_LISTED],
            "For TPUs, tools/compile_for.py tells in advance which settings fit",
        ]
    )


def count_state_bytes(shapes: Any, shardings: Any) -> dict[str, int]:
    """Returns the bytes of each array of a state on one device, by path."""
    sizes = {}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
    ):
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            elements = math.prod(sharding.shard_shape(leaf.shape))
            sizes[parameter_path(path)] = elements * leaf.dtype.itemsize
    return sizes


def suggest_settings(
    config: ml_collections.ConfigDict, devices: int, *, state_first: bool = False
) -> list[str]:
    """Suggests settings that would save memory and are not used yet, the best first.

    Args:
      config: The run's config with every setting.
      devices: Number of devices.
      state_first: Whether parameters and optimizer state take so much memory that they should be
        split first (FSDP).

    Returns:
      One line per suggestion. It begins with the flag to set.
    """
    model, rounds = config.get("model", {}), config.get("rounds", {})
    per_pass = config.batch_size // devices // config.microbatches

    # The state
    lines: list[str] = []
    if config.mesh.fsdp == 1 and devices > 1:
        ways = math.gcd(devices, 16)
        lines.append(
            f"--config.mesh.fsdp={ways} splits parameters and optimizer over {ways} devices (FSDP)"
        )

    # Activations
    after = []
    if model.get("dtype") == "float32":
        after.append(
            "--config.model.dtype=bfloat16 halves activations (mixed precision); parameters and "
            "losses stay float32"
        )
    if model.get("remat") == "none":
        after.append(
            "--config.model.remat=full keeps only the inputs of blocks (gradient checkpointing), "
            "for a third more computation"
        )
    if rounds and rounds.count > 1 and not rounds.remat:
        after.append("--config.rounds.remat=true recomputes each round for its gradient")
    if rounds and not model.get("prompts_at_once"):
        after.append("--config.model.prompts_at_once=8 decodes 8 prompts of an image at a time")
    if per_pass > 1:
        divisor = next(n for n in range(2, per_pass + 1) if per_pass % n == 0)
        pieces = divisor * config.microbatches
        after.append(
            f"--config.microbatches={pieces} splits the batch into {pieces} pieces (gradient "
            "accumulation)"
        )
    if rounds and not rounds.sampled:
        after.append("--config.rounds.sampled=true trains on the first and one random later round")

    lines = lines + after if state_first else [*after[:2], *lines, *after[2:]]
    if per_pass <= 1 or len(lines) < _LISTED:
        lines.append("more devices for the same --config.batch_size, or a smaller batch_size")
    return lines
