"""What a compiled program moves in a run of it, read from its text: collectives by kind, and traffic with the memory.

The compiler's own counts (`cost_analysis`) take the body of a loop once, so they are of no use for a model in a scan.
Here each instruction counts as often as it runs: loops end where their condition compares with a constant. One whose
end is not a constant counts once.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
)
_SIZES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_SIZES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "s8": 1, "u8": 1}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?")
_ARRAYS = re.compile(r"\b[a-z]\w*\[[\d,]*\](?:\{[^{}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
# Each chip hands its part to its host, which exchanges it with those of the same place in the other slices.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
}
_FREE |= {"partition-id", "replica-id", "opt-barrier", "reshape"}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One kind of exchange.

    Attributes:
      kind: one of KINDS. dtype: of what is exchanged. group: chips that exchange with one another.
      crosses: whether they are of several slices.
    """

    kind: str
    dtype: str
    group: int
    crosses: bool = False

    def sent(self, size: float) -> float:
        """Bytes that each chip passes on, around a ring, of an array that has `size` bytes where it is whole."""
        share = (self.group - 1) / self.group
        return size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


@dataclasses.dataclass
class Amount:
    """times: a step; bytes: over these times, of the arrays where they are whole."""

    times: int = 0
    bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one chip in one run of the program: its exchanges, and bytes read from and written to its memory."""

    collectives: dict[Collective, Amount]
    memory_bytes: float


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    rest: str  # operands and attributes
    root: bool

    @property
    def operands(self) -> list[str]:
        depth, end = 1, 0
        while depth and end < len(self.rest):
            depth += {"(": 1, ")": -1}.get(self.rest[end], 0)
            end += 1
        return re.findall(r"%([\w.\-]+)", self.rest[: end - 1])


def read_traffic(text: str, *, chips: int, slices: int = 1) -> Traffic:
    """What a program moves.

    Args:
      text: optimised HLO, `Compiled.as_text()`.
      chips: that run it together; slices: these are in so many slices, one after another.
    """
    computations, entry = _computations(text)
    collectives: dict[Collective, Amount] = defaultdict(Amount)
    moved = 0.0
    for computation, times, fused in _runs(computations, entry):
        for instruction in computations[computation].values():
            opcode = instruction.opcode.removesuffix("-start")
            found, size = None, 0.0
            if opcode in KINDS:
                found, size = _collective(instruction, opcode, computation, chips, slices)
            elif opcode == "send" and (between := _BETWEEN_SLICES.search(instruction.rest)):
                dtype, sizes, _ = _ARRAY.search(instruction.type).groups()
                found = Collective(
                    between[1].lower().replace("_", "-"), dtype, slices, crosses=True
                )
                size = array_bytes(f"{dtype}[{sizes}]")
            if found:
                collectives[found].times += times
                collectives[found].bytes += times * size
            if not fused:
                moved += times * _memory_bytes(instruction, computations[computation], computations)
    return Traffic(dict(collectives), moved)


def array_bytes(type_: str, *, in_memory: bool = False) -> float:
    """Bytes of the arrays of a type, tuples included; in_memory: of those in the chip's main memory alone."""
    total = 0.0
    for dtype, sizes, layout in _ARRAY.findall(type_):
        if not (in_memory and re.search(r"S\([1-9]", layout)):
            total += math.prod(int(size) for size in sizes.split(",") if size) * _size_of(dtype)
    return total


def _size_of(dtype: str) -> float:
    return _SIZES.get(dtype, 1 if dtype.startswith("f8") else 0)


def _computations(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
    computations: dict[str, dict[str, _Instruction]] = {}
    entry, inside = "", None
    for line in text.splitlines():
        if inside is None:
            if head := _HEAD.match(line):
                inside = computations[head[2]] = {}
                entry = head[2] if head[1] else entry
        elif line.startswith("}") and not line.startswith(
            "}}"
        ):  # the latter ends a kernel's attributes, of several lines
            inside = None
        elif found := _INSTRUCTION.match(line):
            root, name, rest = found.groups()
            if opcode := _OPCODE.search(rest, _type_end(rest)):
                inside[name] = _Instruction(
                    name, rest[: opcode.start()], opcode[1], rest[opcode.end() :], root is not None
                )
    return computations, entry


def _type_end(rest: str) -> int:
    """Where a type ends: layouts have parentheses too, `{1,0:T(8,128)S(1)}`, so they are skipped."""
    depth = 0
    for place, letter in enumerate(rest):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(letter, 0)
        if letter == " " and depth == 0:
            return place
    return 0


def _runs(
    computations: dict, name: str, times: int = 1, fused: bool = False
) -> Iterator[tuple[str, int, bool]]:
    """(computation, how often it runs, whether it is a part of a fusion) of all that an instruction brings to run."""
    yield name, times, fused
    for instruction in computations[name].values():
        if instruction.opcode == "while":
            body, condition = (
                re.search(rf"{part}=%?([\w.\-]+)", instruction.rest)[1]
                for part in ("body", "condition")
            )
            yield from _runs(computations, body, times * _turns(computations[condition]), fused)
        elif instruction.opcode in ("fusion", "call", "async-start"):
            for called in _CALLS.findall(instruction.rest):
                yield from _runs(
                    computations, called, times, fused or instruction.opcode == "fusion"
                )
        elif instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
            listed = (
                branches[1]
                if branches
                else " ".join(re.findall(r"\w+_computation=(\S+?),?", instruction.rest))
            )
            for called in re.findall(r"[\w.\-]+", listed):
                yield from (
                    _runs(computations, called, times, fused) if called in computations else ()
                )


def _turns(condition: dict[str, _Instruction]) -> int:
    """Turns of a loop from 0: the largest integer constant that its condition names; 1 if it names none."""
    constants = (
        i for i in condition.values() if i.opcode == "constant" and re.match(r"[su]\d+\[\]", i.type)
    )
    return max(
        (int(number[0]) for i in constants if (number := re.match(r"\d+", i.rest))), default=1
    )


def _collective(
    instruction: _Instruction, kind: str, computation: str, chips: int, slices: int
) -> tuple[Collective, float]:
    arrays = [
        (dtype, array_bytes(f"{dtype}[{sizes}]"))
        for dtype, sizes, _ in _ARRAY.findall(instruction.type)
    ]
    dtype, size = max(arrays, key=lambda array: array[1])
    if not instruction.opcode.endswith("-start"):
        size = sum(size for _, size in arrays)  # several arrays in one exchange
    groups = _groups(instruction.rest, chips)
    if kind == "all-reduce" and "reduce-scatter" in computation:
        kind = "reduce-scatter"  # the TPU's compiler writes it as a fusion of an all-reduce and a slice
    elif kind == "reduce-scatter":
        size *= len(groups[0])
    per_slice = max(1, chips // slices)
    crosses = slices > 1 and any(len({chip // per_slice for chip in group}) > 1 for group in groups)
    return Collective(kind, dtype, len(groups[0]), crosses), size


def _groups(attributes: str, chips: int) -> Sequence[Sequence[int]]:
    """Which chips exchange with which; all of them where the text does not say, or in a way that is not known."""
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", attributes):
        return [
            [int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d, ]+)\}", pairs[1])
        ]
    if listed := re.search(r"replica_groups=\{(\{[\d,{} ]*\})\}", attributes):
        return [
            [int(n) for n in group.split(",")] for group in re.findall(r"\{([\d, ]+)\}", listed[1])
        ]
    if iota := re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        shape, sizes, order = (
            [int(n) for n in part.split(",")] if part else None for part in iota.groups()
        )
        ids = np.arange(math.prod(sizes)).reshape(sizes)
        return (ids if order is None else ids.transpose(order)).reshape(shape).tolist()
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        along = re.findall(r"'(\w+)'", mesh[2])
        if ":" not in mesh[2] and math.prod(sizes.values()) == chips:
            ids = np.arange(chips).reshape(list(sizes.values()))
            ids = np.moveaxis(
                ids, [list(sizes).index(name) for name in along], range(-len(along), 0)
            )
            return ids.reshape(-1, math.prod(sizes[name] for name in along)).tolist()
    return [list(range(chips))]


def _memory_bytes(instruction: _Instruction, around: dict, computations: dict) -> float:
    """What an instruction reads and writes; what it keeps in the chip's fast memory costs nothing here."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or '"AllocateBuffer"' in instruction.rest:
        return 0.0
    written = _each(instruction.type)
    if opcode.endswith(
        "-start"
    ):  # its type lists source and result, of which the smaller is what moves
        whole = [size for size in _each(instruction.type, in_memory=False) if size > 4]
        return min(whole, default=0.0) * sum(size > 4 for size in written)
    read = [
        array_bytes(around[name].type, in_memory=True) if name in around else 0.0
        for name in instruction.operands
    ]
    if opcode in ("slice", "dynamic-slice", "gather"):
        read = [min(size, sum(written)) for size in read]
    elif opcode == "dynamic-update-slice":
        written, read = read[1:2], read[1:]
    elif (
        opcode == "fusion"
        and (called := _CALLS.search(instruction.rest))
        and called[1] in computations
    ):
        inside = computations[called[1]]
        read, written = (
            _read_by_fusion(inside, read, computations),
            _written_by_fusion(inside, written),
        )
    return sum(read) + sum(written)


def _read_by_fusion(
    inside: dict[str, _Instruction],
    read: Sequence[float],
    computations: dict[str, dict[str, _Instruction]],
) -> list[float]:
    """Bytes of each operand that a fusion reads: of one that it slices the slices, of one that it updates nothing."""
    names = {
        int(re.match(r"\d+", i.rest)[0]): i.name for i in inside.values() if i.opcode == "parameter"
    }
    parts = lambda place: (
        sum(_parts_read(names[place], inside, computations)) if place in names else math.inf
    )
    return [min(size, parts(place)) for place, size in enumerate(read)]


def _parts_read(
    name: str, inside: dict[str, _Instruction], computations: dict[str, dict[str, _Instruction]]
) -> Iterator[float]:
    """Bytes that each use of a value in a fusion reads of it, infinity where that is all; fusions may be inside."""
    for user in inside.values():
        for place, operand in enumerate(user.operands):
            if operand != name:
                continue
            if user.opcode == "bitcast":
                yield from _parts_read(user.name, inside, computations)
            elif user.opcode in ("slice", "dynamic-slice"):
                yield array_bytes(user.type)
            elif (
                user.opcode == "fusion"
                and (called := _CALLS.search(user.rest))
                and called[1] in computations
            ):
                reads = [math.inf] * len(user.operands)
                yield _read_by_fusion(computations[called[1]], reads, computations)[place]
            else:
                yield 0.0 if user.opcode == "dynamic-update-slice" and place == 0 else math.inf


def _written_by_fusion(inside: dict[str, _Instruction], written: Sequence[float]) -> list[float]:
    """Bytes of each result that a fusion writes: of one that is an update of an operand the update."""
    root = next(instruction for instruction in inside.values() if instruction.root)
    results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(results) != len(written):
        return list(written)
    sizes = []
    for result, size in zip(results, written, strict=True):
        while result.opcode == "bitcast":
            result = inside[result.operands[0]]
        updates = result.opcode == "dynamic-update-slice"
        sizes.append(min(size, array_bytes(inside[result.operands[1]].type)) if updates else size)
    return sizes


def _each(type_: str, *, in_memory: bool = True) -> list[float]:
    return [array_bytes(array[0], in_memory=in_memory) for array in _ARRAYS.finditer(type_)]
