"""What a step costs by arithmetic: operations of the traced program, and the times that a chip's rates allow.

Nothing here has been checked on a TPU. These are lower bounds; docs/guides/scaling.md says how far above them a step may be.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core

from segjax.scaling.program_text import Traffic
from segjax.scaling.slices import Chip
from segjax.training.program import Program


def operations(jaxpr: core.Jaxpr) -> float:
    """Operations of a program's products and convolutions, two a multiply-add, as often as its loops run them.

    Recomputation counts. A loop whose turns are not known when it is traced (rounds that are sampled) counts once, and
    of branches the dearest. What each device does by itself (`shard_map`) counts for every device.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        kind, parameters = equation.primitive.name, equation.params
        if kind == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += (
                2.0
                * math.prod(equation.outvars[0].aval.shape)
                * math.prod(left[axis] for axis in contracted)
            )
        elif kind == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            made = kernel[parameters["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / made
        elif kind == "cond":
            total += max(operations(branch) for branch in _inside(parameters))
        else:
            total += _times(kind, parameters) * sum(
                operations(inner) for inner in _inside(parameters)
            )
    return total


def operations_per_chip(program: Program, traced: jax.stages.Traced) -> float:
    """Operations of one chip in a step that was traced.

    A chip does its part of the batch. What the optimizer does with a parameter (nothing that counts, but for Muon)
    every chip does that holds it: all of them, and where parameters are split each its part, if XLA finds one.
    """
    shapes, sizes = program.shapes, program.mesh.shape
    update = jax.make_jaxpr(program.update)(shapes.params, shapes.opt_state, shapes.params)
    of_update = operations(update.jaxpr)
    return (operations(traced.jaxpr.jaxpr) - of_update) / program.mesh.size + of_update / sizes[
        "fsdp"
    ]


def _times(kind: str, parameters: dict[str, Any]) -> int:
    """How often the program inside an equation runs."""
    if kind == "pallas_call":
        return math.prod(
            parameters["grid_mapping"].grid
        )  # a kernel's program is that of one step of its grid
    if kind == "shard_map":
        return parameters["mesh"].size  # over all axes, as this package has them
    return parameters.get("length", 1)


def _inside(parameters: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in parameters.values():
        for inner in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(inner, core.ClosedJaxpr):
                yield inner.jaxpr
            elif isinstance(inner, core.Jaxpr):
                yield inner


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Seconds that a step needs at least, for each thing a chip does, if it did that alone and at its full rate.

    Attributes:
      compute: products and convolutions, on bfloat16. memory: reading and writing. links: exchanges within a slice,
        around rings along one axis of the torus, both ways. hosts: exchanges between slices.
    """

    compute: float
    memory: float
    links: float
    hosts: float

    @property
    def bound(self) -> str:
        """The name of the longest."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]

    @property
    def least(self) -> float:
        """A step's time if all overlap perfectly: it cannot be shorter."""
        return max(dataclasses.astuple(self))

    @property
    def one_by_one(self) -> float:
        """A step's time if nothing overlaps."""
        return sum(dataclasses.astuple(self))


def step_times(chip: Chip, operations_per_chip: float, traffic: Traffic) -> StepTimes:
    """The times of a step of which one chip does so many operations, and moves that."""
    sent = {False: 0.0, True: 0.0}
    for collective, amount in traffic.collectives.items():
        sent[collective.crosses] += collective.sent(amount.bytes)
    return StepTimes(
        compute=operations_per_chip / (chip.tflops * 1e12),
        memory=traffic.memory_bytes / (chip.memory_gbs * 1e9),
        links=sent[False] / (2 * chip.link_gbs * 1e9),
        hosts=sent[True] / (chip.hosts_gbs * 1e9),
    )
