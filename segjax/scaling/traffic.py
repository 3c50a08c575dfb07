"""Traffic of a compiled program, read from its text: collectives, and bytes to and from the memory.

The compiler's own counts (`cost_analysis`) take the body of a loop once, which makes them useless
for a model in a scan. Here each instruction counts as often as it runs: the end of a loop is the
constant that its condition compares with. A loop without such a constant counts once.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from segjax.scaling.hlo_text import (
    ARRAY,
    Computation,
    Instruction,
    count_bytes,
    iterate_runs,
    list_array_bytes,
    parse_computations,
)

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
# Each chip hands its part to its host. The host exchanges it with its counterparts in other slices.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
# Instructions that read and write nothing themselves.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "reshape", "while"}
_FREE |= {"call", "conditional", "after-all", "partition-id", "replica-id", "opt-barrier"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange between chips.

    Attributes:
      kind: One of `KINDS`.
      dtype: Type of the exchanged numbers.
      group: Number of chips that exchange with one another.
      crosses: True if these are in several slices.
    """

    kind: str
    dtype: str
    group: int
    crosses: bool = False

    def bytes_sent(self, size: float) -> float:
        """Returns the bytes that each chip sends around a ring for an array of `size` bytes."""
        share = (self.group - 1) / self.group
        return size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


@dataclasses.dataclass
class Amount:
    """Amount of one kind of exchange in a step.

    Attributes:
      times: Number of exchanges.
      bytes: Bytes of the whole arrays, summed over the exchanges.
    """

    times: int = 0
    bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Traffic of one chip in one run of a program.

    Attributes:
      collectives: Amount of each kind of exchange.
      memory_bytes: Bytes that are read from and written to its main memory.
    """

    collectives: dict[Collective, Amount]
    memory_bytes: float


def read_traffic(text: str, *, chips: int, slices: int = 1) -> Traffic:
    """Counts the traffic of a program.

    Args:
      text: Optimized HLO, `Compiled.as_text()`.
      chips: Number of chips that run the program together.
      slices: Number of slices that the chips are in, consecutive chips in one slice.
    """
    computations, entry = parse_computations(text)
    collectives: dict[Collective, Amount] = defaultdict(Amount)
    memory = 0.0
    for name, times, fused in iterate_runs(computations, entry):
        computation = computations[name]
        for instruction in computation.values():
            if exchange := _read_exchange(instruction, name, chips, slices):
                collective, size = exchange
                collectives[collective].times += times
                collectives[collective].bytes += times * size
            # Values inside a fusion never reach the memory.
            if not fused:
                memory += times * _count_memory_bytes(instruction, computation, computations)
    return Traffic(dict(collectives), memory)


def _read_exchange(
    instruction: Instruction, computation: str, chips: int, slices: int
) -> tuple[Collective, float] | None:
    """Returns the exchange of an instruction and the bytes of its whole arrays, None for others."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in KINDS:
        return _read_collective(instruction, opcode, computation, chips, slices)
    if opcode == "send" and (between := _BETWEEN_SLICES.search(instruction.rest)):
        kind = between[1].lower().replace("_", "-")
        dtype, sizes, _ = ARRAY.search(instruction.type).groups()
        return Collective(kind, dtype, slices, crosses=True), count_bytes(f"{dtype}[{sizes}]")
    return None


def _read_collective(
    instruction: Instruction, kind: str, computation: str, chips: int, slices: int
) -> tuple[Collective, float]:
    arrays = [
        (dtype, count_bytes(f"{dtype}[{sizes}]"))
        for dtype, sizes, _ in ARRAY.findall(instruction.type)
    ]
    dtype, size = max(arrays, key=lambda array: array[1])
    if not instruction.opcode.endswith("-start"):
        size = sum(size for _, size in arrays)  # several arrays in one exchange
    groups = _read_groups(instruction.rest, chips)
    if kind == "all-reduce" and "reduce-scatter" in computation:
        kind = "reduce-scatter"  # on TPUs a fusion of an all-reduce and a slice
    elif kind == "reduce-scatter":
        size *= len(groups[0])
    per_slice = max(1, chips // slices)
    crosses = slices > 1 and any(len({chip // per_slice for chip in group}) > 1 for group in groups)
    return Collective(kind, dtype, len(groups[0]), crosses), size


def _read_groups(attributes: str, chips: int) -> Sequence[Sequence[int]]:
    """Reads the groups of chips that exchange with one another.

    Returns:
      Lists of chips. One list of all chips if the text states no groups, or in an unknown form.
    """
    parse_lists = lambda text: [
        [int(n) for n in part.split(",")] for part in re.findall(r"\{([\d, ]+)\}", text)
    ]
    # source_target_pairs={{0,1},{1,0}}
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", attributes):
        return parse_lists(pairs[1])
    # replica_groups={{0,2},{1,3}}
    if listed := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", attributes):
        return parse_lists(listed[1])
    # replica_groups=[2,4]<=[4,2]T(1,0): numbers in order, reshaped and transposed
    if iota := re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        shape, sizes, order = (
            [int(n) for n in part.split(",")] if part else None for part in iota.groups()
        )
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        return (ids if order is None else ids.transpose(order)).reshape(shape).tolist()
    # replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}: along axes of a mesh
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        along = re.findall(r"'(\w+)'", mesh[2])
        if ":" not in mesh[2] and math.prod(sizes.values()) == chips:
            ids = np.arange(chips).reshape(list(sizes.values()))
            axes = [list(sizes).index(name) for name in along]
            ids = np.moveaxis(ids, axes, range(-len(along), 0))
            return ids.reshape(-1, math.prod(sizes[name] for name in along)).tolist()
    return [list(range(chips))]


def _count_memory_bytes(
    instruction: Instruction, computation: Computation, computations: dict[str, Computation]
) -> float:
    """Counts the bytes that an instruction reads and writes, without the chip's fast memory."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or '"AllocateBuffer"' in instruction.rest:
        return 0.0
    written = list_array_bytes(instruction.type)
    if opcode.endswith("-start"):
        # The type lists source and result. The smaller one is the part that moves.
        sizes = [size for size in list_array_bytes(instruction.type, in_memory=False) if size > 4]
        return min(sizes, default=0.0) * sum(size > 4 for size in written)
    read = [
        count_bytes(computation[name].type, in_memory=True) if name in computation else 0.0
        for name in instruction.operands
    ]
    if opcode in ("slice", "dynamic-slice", "gather"):
        read = [min(size, sum(written)) for size in read]
    elif opcode == "dynamic-update-slice":
        written, read = read[1:2], read[1:]
    elif fusion := _find_fusion(instruction, computations):
        read = _count_reads_of_fusion(fusion, read, computations)
        written = _count_writes_of_fusion(fusion, written)
    return sum(read) + sum(written)


def _find_fusion(
    instruction: Instruction, computations: dict[str, Computation]
) -> Computation | None:
    """Returns the computation of a fusion, None for other instructions."""
    if instruction.opcode != "fusion" or not instruction.called:
        return None
    return computations.get(instruction.called[0])


def _count_reads_of_fusion(
    fusion: Computation, read: Sequence[float], computations: dict[str, Computation]
) -> list[float]:
    """Counts the bytes of each operand that a fusion reads.

    Of an operand that it slices it reads the slices, of one that it updates nothing.
    """
    names = {
        int(re.match(r"\d+", i.rest)[0]): i.name for i in fusion.values() if i.opcode == "parameter"
    }
    sizes = []
    for index, size in enumerate(read):
        if index in names:
            size = min(size, sum(_iterate_reads(names[index], fusion, computations)))
        sizes.append(size)
    return sizes


def _iterate_reads(
    name: str, fusion: Computation, computations: dict[str, Computation]
) -> Iterator[float]:
    """Yields the bytes that each use of a value in a fusion reads, infinity for the whole value."""
    for user in fusion.values():
        for index, operand in enumerate(user.operands):
            if operand != name:
                continue
            if user.opcode == "bitcast":
                yield from _iterate_reads(user.name, fusion, computations)
            elif user.opcode in ("slice", "dynamic-slice"):
                yield count_bytes(user.type)
            elif inner := _find_fusion(user, computations):
                whole = [math.inf] * len(user.operands)
                yield _count_reads_of_fusion(inner, whole, computations)[index]
            elif user.opcode == "dynamic-update-slice" and index == 0:
                yield 0.0
            else:
                yield math.inf


def _count_writes_of_fusion(fusion: Computation, written: Sequence[float]) -> list[float]:
    """Counts the bytes of each result that a fusion writes.

    Of a result that is an updated operand it writes the update.
    """
    root = next(instruction for instruction in fusion.values() if instruction.root)
    results = [fusion[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(results) != len(written):
        return list(written)
    sizes = []
    for result, size in zip(results, written, strict=True):
        while result.opcode == "bitcast":
            result = fusion[result.operands[0]]
        if result.opcode == "dynamic-update-slice":
            size = min(size, count_bytes(fusion[result.operands[1]].type))
        sizes.append(size)
    return sizes
