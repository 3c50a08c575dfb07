"""Interpreter of pickles that calls nothing and allocates no more than the data can fill.

A pickle is a program, and Python's own reader trusts the sizes in it: nine bytes can make it
allocate gigabytes. This one checks every length against the data, counts steps and copies, and
looks names up in a table instead of importing them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from segjax.weights.pickles.opcodes import OPCODES
from segjax.weights.pickles.values import (
    CONTAINERS,
    Inert,
    Name,
    Placeholder,
    refuse_programs,
    to_key,
)

MAX_STEPS = 4_000_000  # opcodes, each of which makes one value at most
_STOP = ord(".")


class PickleMachine:
    """Interpreter of one pickle.

    Example:
      value = PickleMachine(data, {("torch", "Size"): make_size}).load()

    Attributes:
      data: bytes, or a memory map.
      position: index of the next byte. After `load` it is that behind the pickle.
      stack: values since the last mark.
      outer: lists of values below the marks.
      memo: values that the pickle refers to by number.
    """

    def __init__(
        self,
        data: Any,
        names: Mapping[tuple[str, str], Callable[..., Any]],
        *,
        find_persistent: Callable[[Any], Any] = lambda identifier: Inert("an object elsewhere"),
        find_class: Callable[[Name], Callable[..., Any] | None] = lambda name: None,
        position: int = 0,
    ) -> None:
        """Makes a machine.

        Args:
          data: as the attribute.
          names: (module, name) -> function that is called in place of that of the pickle, besides
            `CONTAINERS`. Other names become `Inert` values.
          find_persistent: called with a persistent identifier, returns its value.
          find_class: called with a name that `names` does not have, returns its replacement.
          position: index of the first byte.
        """
        self.data, self.position = data, position
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.find_persistent = find_persistent
        self._find_class = find_class
        self._names = CONTAINERS | names
        self._budget = 2 * len(data) + MAX_STEPS  # elements that calls may copy

    def load(self) -> Any:
        """Returns the pickle's value: dicts, lists, tuples, numbers, text, bytes, placeholders.

        Sets are lists. Keys of dicts are text, bytes, integers or `Inert` values.

        Raises:
          EOFError: the data ends too early.
          ValueError: damaged, or beyond the bounds.
          CheckpointError: the pickle asks for a function that runs programs.
        """
        for _ in range(MAX_STEPS):
            opcode = self.take(1)[0]
            if opcode == _STOP:
                return self.stack.pop()
            if opcode not in OPCODES:
                raise ValueError(f"byte {self.position - 1} is {opcode}, which is no opcode")
            OPCODES[opcode](self)
        raise ValueError(f"its pickle takes more than {MAX_STEPS:,} steps")

    def take(self, count: int) -> bytes:
        """Returns the next bytes of the data."""
        end = self.position + count
        if end > len(self.data):
            raise EOFError(f"{count} bytes are expected at byte {self.position}")
        part = self.data[self.position : end]
        self.position = end
        return part

    def take_number(self, count: int) -> int:
        """Returns the next bytes as a number without sign."""
        return int.from_bytes(self.take(count), "little")

    def take_line(self, limit: int) -> bytes:
        """Returns the bytes up to the next line feed, which must come within a limit."""
        end = self.data.find(b"\n", self.position, self.position + limit + 1)
        if end < 0:
            raise EOFError(f"a line at byte {self.position} has no end")
        part = self.take(end - self.position)
        self.position += 1
        return part

    def pop_mark(self) -> list[Any]:
        """Returns the values since the last mark, and removes the mark."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def extend(self, values: list[Any]) -> None:
        """Appends values to the list on the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, (Inert, Placeholder)):
            raise ValueError(f"elements of a {type(target).__name__}")

    def set_items(self, pairs: list[Any]) -> None:
        """Sets items of the dict on the stack. Keys and values alternate."""
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(zip(map(to_key, pairs[::2]), pairs[1::2], strict=True))
        elif not isinstance(target, (Inert, Placeholder)):
            raise ValueError(f"items of a {type(target).__name__}")

    def call(self, function: Any, arguments: Any) -> None:
        """Pushes the value that stands for the result of a call."""
        replacement = None
        if isinstance(function, Name):
            refuse_programs(function)
            replacement = self._names.get((function.module, function.name))
            replacement = replacement or self._find_class(function)
        if replacement is None:
            kind = function if isinstance(function, Name) else type(function).__name__
            self.stack.append(Inert(f"an object of {kind}"))
            return
        if not isinstance(arguments, tuple):
            raise ValueError(f"arguments of {function} are a {type(arguments).__name__}")
        self._count(arguments)
        self.stack.append(replacement(*arguments))

    def build(self, state: Any) -> None:
        """Sets the state of the last value, if it is a placeholder that has one."""
        if isinstance(self.stack[-1], Placeholder):
            self._count(state if isinstance(state, tuple) else (state,))
            self.stack[-1].set_state(state)

    def _count(self, values: tuple[Any, ...]) -> None:
        # A pickle can refer to one long value many times, and each call would copy it.
        sized = (str, bytes, list, tuple, dict)
        self._budget -= sum(len(v) for v in (values, *values[:16]) if isinstance(v, sized))
        if self._budget < 0:
            raise ValueError("its pickle copies the same values again and again")
