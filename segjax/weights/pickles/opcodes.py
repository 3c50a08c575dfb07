"""Opcodes of pickles, protocols 0 to 5, as functions of a `PickleMachine`.

The module `pickletools` of the standard library documents each of them.
"""

import codecs
import re
import struct
from collections.abc import Callable
from typing import Any

from segjax.weights.pickles.values import Name, refuse_programs

_INTEGER_BYTES = 64
_LINE = 200  # characters of a number, or of the name of a module
_WIDE_TEXT = 1 << 26  # longer text must take one byte a character in memory
Operation = Callable[[Any], Any]


def _to_integer(data: bytes) -> int:
    if len(data) > _INTEGER_BYTES:
        raise ValueError(f"an integer has {len(data):,} bytes, expected at most {_INTEGER_BYTES}")
    return int.from_bytes(data, "little", signed=True)


def _read_decimal(machine: Any) -> int | bool:
    line = machine.take_line(_LINE)
    return line == b"01" if line in (b"00", b"01") else int(line.removesuffix(b"L"))


def _decode(data: bytes, encoding: str = "utf-8", errors: str = "surrogatepass") -> str:
    # One character beyond Latin-1 would quadruple the text's memory
    if len(data) > _WIDE_TEXT and re.search(rb"[\xc4-\xff]", data):
        raise ValueError(f"a text has {len(data):,} bytes, expected at most {_WIDE_TEXT:,}")
    return data.decode(encoding, errors)


def _read_quoted(machine: Any) -> str:
    """Returns text in quotes, as Python 2 writes it in protocol 0."""
    line = machine.take_line(len(machine.data)).strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a text has no quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _make_name(module: Any, name: Any) -> Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("a name is not text")
    result = Name(module[:_LINE], name[:_LINE])
    refuse_programs(result)
    return result


def _read_name(machine: Any) -> Name:
    return _make_name(machine.take_line(_LINE).decode(), machine.take_line(_LINE).decode())


# Opcodes that push a value
_PUSH: dict[str, Operation] = {
    "N": lambda m: None,
    "\x88": lambda m: True,
    "\x89": lambda m: False,
    "I": _read_decimal,
    "L": _read_decimal,
    "F": lambda m: float(m.take_line(_LINE)),
    "J": lambda m: struct.unpack("<i", m.take(4))[0],
    "K": lambda m: m.take_number(1),
    "M": lambda m: m.take_number(2),
    "G": lambda m: struct.unpack(">d", m.take(8))[0],
    "\x8a": lambda m: _to_integer(m.take(m.take_number(1))),
    "\x8b": lambda m: _to_integer(m.take(m.take_number(4))),
    # Text. Strings of Python 2 are bytes, which latin1 keeps.
    "S": _read_quoted,
    "T": lambda m: m.take(m.take_number(4)).decode("latin1"),
    "U": lambda m: m.take(m.take_number(1)).decode("latin1"),
    "V": lambda m: _decode(m.take_line(len(m.data)), "raw-unicode-escape", "strict"),
    "X": lambda m: _decode(m.take(m.take_number(4))),
    "\x8c": lambda m: _decode(m.take(m.take_number(1))),
    "\x8d": lambda m: _decode(m.take(m.take_number(8))),
    # Bytes
    "B": lambda m: m.take(m.take_number(4)),
    "C": lambda m: m.take(m.take_number(1)),
    "\x8e": lambda m: m.take(m.take_number(8)),
    "\x96": lambda m: m.take(m.take_number(8)),
    # Containers. Sets are lists, because elements of a set would be hashed.
    ")": lambda m: (),
    "]": lambda m: [],
    "}": lambda m: {},
    "\x8f": lambda m: [],
    "t": lambda m: tuple(m.pop_mark()),
    "l": lambda m: m.pop_mark(),
    "\x91": lambda m: m.pop_mark(),
    "\x85": lambda m: (m.stack.pop(),),
    "\x86": lambda m: (m.stack.pop(), m.stack.pop())[::-1],
    "\x87": lambda m: (m.stack.pop(), m.stack.pop(), m.stack.pop())[::-1],
    # Names and references
    "c": _read_name,
    "\x93": lambda m: _make_name(*(m.stack.pop(), m.stack.pop())[::-1]),
    "2": lambda m: m.stack[-1],
    "g": lambda m: m.memo[int(m.take_line(_LINE))],
    "h": lambda m: m.memo[m.take_number(1)],
    "j": lambda m: m.memo[m.take_number(4)],
    "P": lambda m: m.find_persistent(m.take_line(_LINE).decode()),
    "Q": lambda m: m.find_persistent(m.stack.pop()),
}


def _mark(machine: Any) -> None:
    machine.outer.append(machine.stack)
    machine.stack = []


def _pop(machine: Any) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _put(machine: Any, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


def _make_dict(machine: Any) -> None:
    pairs = machine.pop_mark()
    machine.stack.append({})
    machine.set_items(pairs)


def _call(machine: Any, keywords: bool = False) -> None:
    if keywords:
        machine.stack.pop()  # keyword arguments change no value that is read
    arguments = machine.stack.pop()
    machine.call(machine.stack.pop(), arguments)


def _call_marked(machine: Any) -> None:
    function, *arguments = machine.pop_mark()
    machine.call(function, tuple(arguments))


def _call_named(machine: Any) -> None:
    name = _read_name(machine)
    machine.call(name, tuple(machine.pop_mark()))


# Opcodes that change the stack or a value on it
_CHANGE: dict[str, Operation] = {
    "\x80": lambda m: m.take(1),  # the protocol
    "\x95": lambda m: m.take(8),  # the size of a frame
    "(": _mark,
    "0": _pop,
    "1": lambda m: m.pop_mark(),
    "p": lambda m: _put(m, int(m.take_line(_LINE))),
    "q": lambda m: _put(m, m.take_number(1)),
    "r": lambda m: _put(m, m.take_number(4)),
    "\x94": lambda m: _put(m, len(m.memo)),
    "a": lambda m: m.extend([m.stack.pop()]),
    "e": lambda m: m.extend(m.pop_mark()),
    "\x90": lambda m: m.extend(m.pop_mark()),
    "s": lambda m: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    "u": lambda m: m.set_items(m.pop_mark()),
    "d": _make_dict,
    "R": _call,
    "\x81": _call,
    "\x92": lambda m: _call(m, keywords=True),
    "o": _call_marked,
    "i": _call_named,
    "b": lambda m: m.build(m.stack.pop()),
}


def _push(read: Operation) -> Operation:
    def operation(machine: Any) -> None:
        value = read(machine)
        machine.stack.append(value)  # looked up afterwards, because marks replace the stack

    return operation


OPCODES: dict[int, Operation] = {
    **{ord(code): _push(read) for code, read in _PUSH.items()},
    **{ord(code): change for code, change in _CHANGE.items()},
}
