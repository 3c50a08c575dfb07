"""Parser for the text of compiled programs (optimized HLO, `Compiled.as_text()`).

You can skip this file: it only reads the text that `segjax.scaling.traffic` counts.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "s8": 1, "u8": 1}
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?")  # dtype, sizes, layout
_ARRAY_TEXT = re.compile(r"\b[a-z]\w*\[[\d,]*\](?:\{[^{}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_CALLS = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction of a computation.

    Attributes:
      name: Name within the computation.
      type: Text of its type, such as "f32[8,16]{1,0}", or a tuple of these.
      opcode: Such as "fusion" or "all-gather-start".
      rest: Text of operands and attributes.
      root: True for the result of the computation.
    """

    name: str
    type: str
    opcode: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        depth, end = 1, 0
        while depth and end < len(self.rest):
            depth += {"(": 1, ")": -1}.get(self.rest[end], 0)
            end += 1
        return re.findall(r"%([\w.\-]+)", self.rest[: end - 1])

    @property
    def called(self) -> list[str]:
        """Names of the computations that a fusion or call runs."""
        return _CALLS.findall(self.rest)


Computation = dict[str, Instruction]  # instructions by name


def parse_computations(text: str) -> tuple[dict[str, Computation], str]:
    """Parses the text of a program.

    Returns:
      Computations by name, and the name of the entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            if head := _HEAD.match(line):
                current = computations[head[2]] = {}
                entry = head[2] if head[1] else entry
        # "}}" ends the attributes of a kernel, which span several lines.
        elif line.startswith("}") and not line.startswith("}}"):
            current = None
        elif match := _INSTRUCTION.match(line):
            root, name, rest = match.groups()
            if opcode := _OPCODE.search(rest, _find_type_end(rest)):
                current[name] = Instruction(
                    name, rest[: opcode.start()], opcode[1], rest[opcode.end() :], root is not None
                )
    return computations, entry


def _find_type_end(rest: str) -> int:
    """Finds the end of the type. Layouts, `{1,0:T(8,128)S(1)}`, have parentheses too."""
    depth = 0
    for position, letter in enumerate(rest):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(letter, 0)
        if letter == " " and depth == 0:
            return position
    return 0


def iterate_runs(
    computations: dict[str, Computation], name: str, times: int = 1, fused: bool = False
) -> Iterator[tuple[str, int, bool]]:
    """Yields every computation that a computation runs, itself included.

    Args:
      computations: All computations of the program.
      name: The computation that is run.
      times: Number of its runs.
      fused: True if it is part of a fusion.

    Yields:
      Name of a computation, number of its runs, and whether it is part of a fusion.
    """
    yield name, times, fused
    for instruction in computations[name].values():
        # Loops run their body several times.
        if instruction.opcode == "while":
            body, condition = (
                re.search(rf"{part}=%?([\w.\-]+)", instruction.rest)[1]
                for part in ("body", "condition")
            )
            iterations = _count_iterations(computations[condition])
            yield from iterate_runs(computations, body, times * iterations, fused)
        # Fusions and calls run another computation once.
        elif instruction.opcode in ("fusion", "call", "async-start"):
            inside = fused or instruction.opcode == "fusion"
            for called in instruction.called:
                yield from iterate_runs(computations, called, times, inside)
        # Every branch counts, because which one runs is unknown.
        elif instruction.opcode == "conditional":
            for called in _list_branches(instruction):
                if called in computations:
                    yield from iterate_runs(computations, called, times, fused)


def _list_branches(conditional: Instruction) -> list[str]:
    branches = re.search(r"branch_computations=\{([^}]*)\}", conditional.rest)
    if branches:
        names = branches[1]
    else:
        names = " ".join(re.findall(r"\w+_computation=(\S+?),?", conditional.rest))
    return re.findall(r"[\w.\-]+", names)


def _count_iterations(condition: Computation) -> int:
    """Counts the iterations of a loop that starts at 0.

    Returns:
      The largest integer constant in its condition, 1 if there is none.
    """
    constants = (
        i for i in condition.values() if i.opcode == "constant" and re.match(r"[su]\d+\[\]", i.type)
    )
    return max(
        (int(number[0]) for i in constants if (number := re.match(r"\d+", i.rest))), default=1
    )


def count_bytes(type_: str, *, in_memory: bool = False) -> float:
    """Counts the bytes of the arrays of a type, tuples included.

    Args:
      type_: Text of the type.
      in_memory: Count only the arrays in the chip's main memory.
    """
    total = 0.0
    for dtype, sizes, layout in ARRAY.findall(type_):
        if not (in_memory and re.search(r"S\([1-9]", layout)):
            elements = math.prod(int(size) for size in sizes.split(",") if size)
            total += elements * _BYTES.get(dtype, 1 if dtype.startswith("f8") else 0)
    return total


def list_array_bytes(type_: str, *, in_memory: bool = True) -> list[float]:
    """Lists the bytes of each array of a type, see `count_bytes`."""
    arrays = _ARRAY_TEXT.finditer(type_)
    return [count_bytes(array[0], in_memory=in_memory) for array in arrays]
