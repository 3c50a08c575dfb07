"""Out of memory: what takes it, and what to set so that a run fits."""

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
_TOLD = 3  # pieces of advice


class OutOfMemoryError(RuntimeError):
    """The devices do not hold a step. The message says what is largest and what to set."""


@contextlib.contextmanager
def explained(
    program: Program,
    complete: Callable[[], ml_collections.ConfigDict],
    batch: Mapping[str, Any],
    step: int,
) -> Iterator[None]:
    """Around a step: devices that run out of memory become an OutOfMemoryError that says what would help.

    Args:
      complete: makes the run's config with every setting. batch: as placed, arrays or shapes. step: its number.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"step {step}: {explanation(error, complete(), program, batch)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the devices, or the compiler for them, ran out of memory."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def needed_gib(message: str) -> tuple[float, float] | None:
    """(GiB that a program needs, GiB there are) by the message of the TPU's compiler; None where it does not say."""
    for pattern in (
        r"\(([\d.]+)([MGT])\) exceeds available HBM \(([\d.]+)([MGT])\)",
        r"Used ([\d.]+)([MGT]) of ([\d.]+)([MGT])",
    ):
        if found := re.search(pattern, message):
            needed, unit, there, other = found.groups()
            scale = {"M": 1 / 1024, "G": 1.0, "T": 1024.0}
            return float(needed) * scale[unit], float(there) * scale[other]
    return None


def explanation(
    error: BaseException,
    config: ml_collections.ConfigDict,
    program: Program,
    batch: Mapping[str, Any],
) -> str:
    """What ran out, what is largest of what is known, and three settings of a complete config that would help."""
    message = str(error)
    if amounts := needed_gib(message):
        what = f"{amounts[0]:.2f} GiB a device are needed, {amounts[1]:.2f} GiB are there"
    else:
        what = message.split("RESOURCE_EXHAUSTED:")[-1].strip().splitlines()[0]
    arrays = state_bytes(program.shapes, program.shardings)
    state = sum(arrays.values()) / GIB
    largest = sorted(arrays.items(), key=lambda item: -item[1])[:_TOLD]
    devices = program.mesh.size
    pictures = sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values()) / devices / GIB
    each = config.batch_size / devices / config.microbatches
    first = state > (amounts[1] / 3 if amounts else 4.0)
    return "\n  ".join(
        [
            f"out of memory: {what}. Each device holds {state:.2f} GiB of the state, {pictures:.2f} of the batch, and "
            f"the activations of {each:g} image{'s' * (each != 1)} at a time. Of the state the largest: "
            + ", ".join(f"{name} {size / GIB:.2f}" for name, size in largest)
            + ". What would help:",
            *advice(config, devices, state_first=first)[:_TOLD],
            "For TPUs tools/compile_for.py says what fits before anything is rented",
        ]
    )


def state_bytes(shapes: Any, shardings: Any) -> dict[str, int]:
    """Bytes of each array of a state on one device, by path."""
    found = {}
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
    ):
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            found[parameter_path(path)] = (
                math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            )
    return found


def advice(
    config: ml_collections.ConfigDict, devices: int, *, state_first: bool = False
) -> list[str]:
    """Settings of a complete config that would save memory and are not used yet, the best first.

    state_first: whether parameters and optimizer take so much that these should be split before anything else.
    """
    model, rounds = config.get("model", {}), config.get("rounds", {})
    each = config.batch_size // devices // config.microbatches
    told: list[str] = []
    if config.mesh.fsdp == 1 and devices > 1:
        ways = math.gcd(devices, 16)
        told.append(
            f"--config.mesh.fsdp={ways} splits parameters and optimizer over {ways} devices"
        )
    after = []
    if model.get("dtype") == "float32":
        after.append(
            "--config.model.dtype=bfloat16 halves activations; parameters and losses stay float32"
        )
    if model.get("remat") == "none":
        after.append(
            "--config.model.remat=full keeps the inputs of blocks alone, for a third more computation"
        )
    if rounds and rounds.count > 1 and not rounds.remat:
        after.append("--config.rounds.remat=true computes each round again for its gradient")
    if rounds and not model.get("prompts_at_once"):
        after.append(
            "--config.model.prompts_at_once=8 decodes so many prompts of an image at a time"
        )
    if each > 1:
        pieces = next(n for n in range(2, each + 1) if each % n == 0) * config.microbatches
        after.append(f"--config.microbatches={pieces} works through the batch in so many pieces")
    if rounds and not rounds.sampled:
        after.append(
            "--config.rounds.sampled=true learns from the first and one random later round"
        )
    told = told + after if state_first else [*after[:2], *told, *after[2:]]
    if each <= 1 or len(told) < _TOLD:
        told.append("more devices for the same --config.batch_size, or a smaller one")
    return told
