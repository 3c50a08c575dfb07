"""Estimates of a step's cost: its floating-point operations, and lower bounds on its time.

Nothing here has been checked on a TPU. docs/guides/scaling.md says how far above these bounds a
step may be.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core

from segjax.scaling.slices import Chip
from segjax.scaling.traffic import Traffic
from segjax.training.program import Program


def count_flops(jaxpr: core.Jaxpr) -> float:
    """Counts the floating-point operations of a program's matrix products and convolutions.

    A multiply-add counts as two. Loops count as often as they run, so recomputation counts too. A
    loop whose length is unknown at tracing (`rounds.sampled`) counts once, and of branches the most
    expensive one. The program of a `shard_map` counts once per device.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        kind, parameters = equation.primitive.name, equation.params
        # Matrix products
        if kind == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            outputs = math.prod(equation.outvars[0].aval.shape)
            total += 2.0 * outputs * math.prod(left[axis] for axis in contracted)
        # Convolutions: one multiply-add per output, kernel cell and input feature
        elif kind == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / features
        # Control flow
        elif kind == "cond":
            total += max(count_flops(branch) for branch in _iterate_inner(parameters))
        else:
            inner = sum(count_flops(inner) for inner in _iterate_inner(parameters))
            total += _count_runs(kind, parameters) * inner
    return total


def count_flops_per_chip(program: Program, traced: jax.stages.Traced) -> float:
    """Counts the floating-point operations of one chip in a step.

    A chip computes its part of the batch. The optimizer's work on a parameter, which counts for
    Muon only, is done by every chip that holds the parameter. Where parameters are split, each chip
    does its part, if XLA finds a way to split the work.

    Args:
      program: The program of the run.
      traced: Its step, traced.
    """
    shapes, sizes = program.shapes, program.mesh.shape
    # The step contains the update, which is counted apart.
    update = jax.make_jaxpr(program.update)(shapes.params, shapes.opt_state, shapes.params)
    update_flops = count_flops(update.jaxpr)
    model_flops = count_flops(traced.jaxpr.jaxpr) - update_flops
    return model_flops / program.mesh.size + update_flops / sizes["fsdp"]


def _count_runs(kind: str, parameters: dict[str, Any]) -> int:
    """Counts the runs of the program inside an equation."""
    if kind == "pallas_call":  # the program of a kernel is that of one step of its grid
        return math.prod(parameters["grid_mapping"].grid)
    if kind == "shard_map":  # over all axes, as everywhere in this package
        return parameters["mesh"].size
    return parameters.get("length", 1)


def _iterate_inner(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    """Yields the programs inside an equation."""
    for value in parameters.values():
        for inner in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(inner, core.ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, core.Jaxpr):
                yield inner


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Lower bounds on the seconds of a step, one per resource of a chip at its full rate.

    Attributes:
      compute: Matrix products and convolutions, in bfloat16.
      memory: Reads and writes of the main memory.
      links: Exchanges within a slice, around rings along one axis of the torus, both ways.
      hosts: Exchanges between slices.
    """

    compute: float
    memory: float
    links: float
    hosts: float

    @property
    def bottleneck(self) -> str:
        """Name of the largest bound."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]

    @property
    def full_overlap(self) -> float:
        """Seconds of a step in which everything overlaps: the lower bound."""
        return max(dataclasses.astuple(self))

    @property
    def no_overlap(self) -> float:
        """Seconds of a step in which nothing overlaps."""
        return sum(dataclasses.astuple(self))


def estimate_step_times(chip: Chip, flops_per_chip: float, traffic: Traffic) -> StepTimes:
    """Estimates the times of a step.

    Args:
      chip: Rates of one chip.
      flops_per_chip: Floating-point operations of one chip in a step.
      traffic: Traffic of one chip in a step.
    """
    sent = {False: 0.0, True: 0.0}
    for collective, amount in traffic.collectives.items():
        sent[collective.crosses] += collective.bytes_sent(amount.bytes)
    return StepTimes(
        compute=flops_per_chip / (chip.tflops * 1e12),
        memory=traffic.memory_bytes / (chip.memory_gbs * 1e9),
        links=sent[False] / (2 * chip.link_gbs * 1e9),
        hosts=sent[True] / (chip.hosts_gbs * 1e9),
    )
