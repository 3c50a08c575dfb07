"""Mutators: one random change of a file, by its bytes or by its structure.

A mutator is called as mutate(rng, data, tokens) and returns the changed bytes. `tokens` are texts
that mean something to the reader under test. Structures that a mutator cannot parse are changed as
plain bytes.
"""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from fuzzing import binary_formats

Mutator = Callable[[random.Random, bytes, Sequence[str]], bytes]

INTEGERS = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
# Written into JSON text as they are, because json.dumps cannot write them.
RAW_JSON = {
    "@deep list@": "[" * 20_000 + "]" * 20_000,
    "@deep object@": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "@long number@": "9" * 5_000,
    "@beyond float@": "1e400",
}
ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 2, 3, 0.5, -0.0, 1e-320, 1e38, 3.5e38, -1e300),
    *(float("nan"), float("inf"), float("-inf")),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30),
    *("", "0", "x", "nan", "1e9", "../../escaped", "/etc/hostname", "a/b", "\0", "\x1b[31m", "\n"),
    *("\ud800", "x" * 100_000, [], {}, [[]], [None], {"a": 1}, [0] * 1000, [float("nan")] * 4),
    *RAW_JSON,
)


def mutate_tree(
    rng: random.Random, tree: dict[str, bytes], tokens: Sequence[str]
) -> dict[str, bytes]:
    """Returns the tree with one file changed, seldom two, and seldom without a file.

    Args:
      rng: decides everything.
      tree: relative path -> content.
      tokens: texts that mean something to the reader.
    """
    tree = dict(tree)
    for _ in range(1 if rng.random() < 0.9 else 2):
        path = rng.choice(sorted(tree))
        if len(tree) > 1 and rng.random() < 0.02:
            del tree[path]
        else:
            tree[path] = mutate_file(rng, path, tree[path], tokens)
    return tree


def flip_one_bit(
    rng: random.Random, tree: dict[str, bytes], tokens: Sequence[str]
) -> dict[str, bytes]:
    """Returns the tree with one bit changed, every bit of all files being equally likely."""
    paths = sorted(path for path in tree if tree[path])
    path = rng.choices(paths, [len(tree[path]) for path in paths])[0]
    content = bytearray(tree[path])
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return tree | {path: bytes(content)}


def mutate_file(rng: random.Random, path: str, data: bytes, tokens: Sequence[str]) -> bytes:
    """Changes a file by its structure, if that is known, or by its bytes."""
    mutate = find_mutator(path, data)
    if mutate is None or rng.random() < 0.3:
        return mutate_bytes(rng, data, tokens)
    try:
        return mutate(rng, data, tokens)
    # An earlier change has broken the structure, which parsers tell by all kinds of errors.
    except Exception:  # noqa: BLE001
        return mutate_bytes(rng, data, tokens)


def find_mutator(path: str, data: bytes) -> Mutator | None:
    """Returns the mutator of the structure of a file, by name or first bytes."""
    if path.endswith(".json") or data[:1] in (b"{", b"["):
        return mutate_json
    if path.endswith(".safetensors"):
        return _mutate_safetensors
    for is_format, mutate in binary_formats.FORMATS:
        if is_format(path, data):
            return lambda rng, data, tokens: mutate(rng, data, tokens, mutate_file)
    return None


# Bytes


def mutate_bytes(rng: random.Random, data: bytes, tokens: Sequence[str]) -> bytes:
    """Applies one to four random changes to plain bytes."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_BYTE_CHANGES)(rng, content, tokens)
    return bytes(content)


def _position(rng: random.Random, content: bytearray) -> int:
    """Draws a position, half of the time among the first or last bytes, where headers are."""
    last = max(len(content) - 1, 0)
    return rng.choice((rng.randint(0, last), min(rng.randint(0, 64), last), max(last - 64, 0)))


def _flip_bit(rng, content, tokens):
    if content:
        content[_position(rng, content)] ^= 1 << rng.randrange(8)


def _set_byte(rng, content, tokens):
    if content:
        content[_position(rng, content)] = rng.randrange(256)


def _set_integer(rng, content, tokens):
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    start = _position(rng, content) // size * size
    number = rng.choice(INTEGERS) % 256**size
    content[start : start + size] = number.to_bytes(size, order)


def _truncate(rng, content, tokens):
    del content[_position(rng, content) :]


def _delete(rng, content, tokens):
    start = _position(rng, content)
    del content[start : start + rng.choice((1, 4, 64, 1000))]


def _repeat(rng, content, tokens):
    start = _position(rng, content)
    part = content[start : start + rng.choice((1, 4, 64, 1000))]
    content[start:start] = part * rng.choice((1, 2, 100))


def _insert(rng, content, tokens):
    start = _position(rng, content)
    content[start:start] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4, 30))))


def _clear(rng, content, tokens):
    start, size = _position(rng, content), rng.choice((4, 64, 4096))
    content[start : start + size] = bytes([rng.choice((0, 255))]) * len(
        content[start : start + size]
    )


def _write_token(rng, content, tokens):
    text = rng.choice((*tokens, *(str(n) for n in INTEGERS), "-1", "nan", "../..", "%!PS"))
    token = text.encode("utf-8", "replace")
    start = _position(rng, content)
    content[start : start + rng.choice((0, len(token)))] = token


def _become_token(rng, content, tokens):
    """Puts a token, such as the first bytes of another format, before or in place of the rest."""
    if tokens:
        content[: rng.choice((0, 8, len(content)))] = rng.choice(tokens).encode(
            "latin-1", "replace"
        )


def _replace_token(rng, content, tokens):
    """Puts one token in the place of another that the content has."""
    present = [token.encode() for token in tokens if token and token.encode() in content]
    if present:
        new = rng.choice(tokens).encode()
        content[:] = bytes(content).replace(rng.choice(present), new, rng.choice((1, -1)))


_BYTE_CHANGES = (
    *(_flip_bit, _flip_bit, _set_byte, _set_integer, _truncate, _delete, _repeat),
    *(_insert, _clear, _write_token, _replace_token, _become_token),
)

# JSON


def mutate_json(rng: random.Random, data: bytes, tokens: Sequence[str]) -> bytes:
    """Changes one to three nodes of a JSON document."""
    content = [json.loads(data)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_node(rng, content, tokens)
    return _dump_json(content[0]).encode("utf-8", "surrogatepass")


def _dump_json(content: Any) -> str:
    text = json.dumps(content)
    for mark, raw in RAW_JSON.items():
        text = text.replace(json.dumps(mark), raw)
    return text


def _list_slots(content: Any, limit: int = 20_000) -> list[tuple[Any, Any]]:
    """Lists (container, key or index) of the nodes of a document, its root included."""
    slots, queue = [], [content]
    while queue and len(slots) < limit:
        container = queue.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        for key in keys:
            slots.append((container, key))
            if isinstance(container[key], dict | list):
                queue.append(container[key])
    return slots


def _change_node(rng: random.Random, content: list, tokens: Sequence[str]) -> None:
    slots = _list_slots(content)
    container, key = rng.choice(slots)
    value, change = container[key], rng.randrange(11)
    if change <= 3:
        container[key] = copy.deepcopy(rng.choice((*ODD_VALUES, *tokens)))
    elif change == 4:
        other, name = rng.choice(slots)
        container[key] = json.loads(json.dumps(other[name]))
    elif change == 5 and container is not content:
        del container[key]
    elif change == 6 and isinstance(container, dict):
        container[rng.choice((*tokens, "x"))] = container.pop(key)
    elif change == 7 and isinstance(container, list) and container is not content:
        container[key:key] = [value] * rng.choice((1, 1, 50))
    elif change == 8 and isinstance(value, int | float) and not isinstance(value, bool):
        container[key] = rng.choice((value + 1, value - 1, -value, value * 2**20, value + 0.5))
    elif change == 9 and isinstance(value, str):
        as_token = tokens and rng.random() < 0.5
        container[key] = rng.choice(tokens) if as_token else mutate_text(rng, value, tokens)
    elif change == 10 and isinstance(container, list) and _count_integers(container) > 2:
        # The sum stays the same modulo 2**64.
        numbers = [index for index, each in enumerate(container) if type(each) is int]
        for index, more in zip(rng.sample(numbers, 3), (2**63 - 1, 2**63 - 1, 2), strict=True):
            container[index] += more
    else:
        container[key] = rng.choice(([value], {"a": value}, str(value)))


def _count_integers(values: list) -> int:
    return sum(type(each) is int for each in values)


def mutate_text(rng: random.Random, text: str, tokens: Sequence[str]) -> str:
    """Changes a text: as JSON, if it is a document of its own, or by its bytes."""
    if text[:1] in ("{", "["):
        try:
            return mutate_json(rng, text.encode(), tokens).decode("utf-8", "surrogatepass")
        except ValueError:
            pass
    return mutate_bytes(rng, text.encode("utf-8", "replace"), tokens).decode("utf-8", "replace")


def _mutate_safetensors(rng: random.Random, data: bytes, tokens: Sequence[str]) -> bytes:
    """Changes the JSON header of a .safetensors file, and states its length rightly or wrongly."""
    length = int.from_bytes(data[:8], "little")
    header = mutate_json(rng, data[8 : 8 + length], tokens)
    stated = len(header) if rng.random() < 0.95 else rng.choice(INTEGERS) % 2**64
    return stated.to_bytes(8, "little") + header + data[8 + length :]
