"""tools/fuzz: mutations repeat, faults are found and told apart, and every reader is fuzzed."""

import os
import pathlib
import random
import subprocess
import sys
import tempfile
import zlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

from fuzzing import binary_formats, harness, mutators, verdicts  # noqa: E402
from fuzzing.harness import Fuzzer, Reader  # noqa: E402


class DamagedError(ValueError):
    """Error of a reader that is clear, as those of segjax are."""

    __module__ = "segjax.tests"


def write_word(folder):
    (folder / "a").mkdir()
    (folder / "a" / "word.txt").write_text("valid")


def make_reader(name):
    """Returns a reader that has a fault for every input but the valid one."""

    def read(folder):
        path = folder / "word.txt"
        word = path.read_bytes()
        if word != b"valid":
            FAULTS[name](path, word)
        return word

    return Reader(name, write_word, read, exact=name == "silent")


def refuse(path, word):
    raise DamagedError(f"{path} holds {word!r}; expected 'valid'")


def refuse_unclearly(path, word):
    raise KeyError(word)


def ask_for_memory(path, word):
    try:
        return bytearray(1 << 40)
    except MemoryError as error:
        raise DamagedError(f"{path} is damaged") from error


def spin(path, word):
    while True:
        pass


FAULTS = {
    "refused": refuse,
    "unclear": refuse_unclearly,
    "memory": ask_for_memory,
    "crash": lambda path, word: os.abort(),
    "hang": spin,
    "process": lambda path, word: subprocess.run(["true"]),
    "write": lambda path, word: (path.parents[2] / "escaped").write_text("x"),
    "code": lambda path, word: __import__("fuzz_canary"),
    "network": lambda path, word: __import__("socket").create_connection(("127.0.0.1", 9)),
    "silent": lambda path, word: None,
    "read": lambda path, word: None,
}


@pytest.fixture
def in_new_process(tmp_path):
    """Returns a function that fuzzes in a new process, because this one has threads of jax."""

    def run(*arguments):
        environment = os.environ | {
            "PYTHONPATH": f"{ROOT / 'tools'}:{ROOT / 'tests'}:{ROOT}",
            "JAX_PLATFORMS": "cpu",
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "2",
        }
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True
        )

    return run


def test_the_same_seed_gives_the_same_cases_and_most_change_something():
    tree = {"a.json": b'{"a": [1, 2.5, "x"], "b": {"c": null}}', "b.bin": bytes(range(200))}
    make = lambda number: mutators.mutate_tree(random.Random(number), tree, ("token",))
    cases = [make(number) for number in range(300)]
    assert cases == [make(number) for number in range(300)]
    assert sum(case != tree for case in cases) > 285
    assert len({str(sorted(case.items())) for case in cases}) > 250


def test_structures_stay_valid_where_their_checksums_count():
    rng, part = random.Random(0), lambda rng, path, data, tokens: data[::-1]
    data = binary_formats.write_tar([("sa_1.jpg", b"x" * 700), ("sa_1.json", b"{}")])
    tars = [binary_formats.mutate_tar(rng, data, (), part) for _ in range(400)]
    for tar in tars:
        assert int(tar[148:154], 8) == sum(tar[:148]) + 8 * ord(" ") + sum(tar[156:512])
    assert any(tar[124:135] == b"7" * 11 for tar in tars)
    chunk = lambda kind, body: (
        len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)
    )
    png = binary_formats.PNG + chunk(b"IHDR", bytes(13)) + chunk(b"IEND", b"")
    for _ in range(20):
        at, changed = 8, binary_formats.mutate_png(rng, png, (), part)
        while at < len(changed):
            size = int.from_bytes(changed[at : at + 4])
            body, crc = changed[at + 4 : at + 8 + size], changed[at + 8 + size : at + 12 + size]
            assert zlib.crc32(body) == int.from_bytes(crc)
            at += 12 + size


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DamagedError("input/a.json is cut short"), verdicts.REFUSED),
        (FileNotFoundError(2, "No such file", "input/a.json"), verdicts.REFUSED),
        (ValueError("cut short"), "unclear"),  # names nothing
        (ValueError("a.json\nis cut short"), "unclear"),  # two lines
        (ValueError("a.json holds \x1b[31m"), "unclear"),  # colors the terminal
        (ValueError("a.json " + "x" * 2_000), "unclear"),
        (KeyError("a.json"), "unclear"),
        (UnicodeDecodeError("utf-8", b"a.json", 0, 1, "bad"), "unclear"),
        (MemoryError(), "memory"),
        (verdicts.WrongValueError("another mask"), "silent"),
    ],
)
def test_an_error_is_clear_if_it_is_one_sentence_that_names_the_input(error, kind):
    assert verdicts.judge_error(error, ["a.json"])[0] == kind


def test_every_kind_of_fault_is_found_and_the_next_case_goes_on(in_new_process):
    """The child that crashes or hangs is replaced, and no case is lost."""
    result = in_new_process(__file__)
    assert result.returncode == 0, result.stderr
    kinds = dict(line.split(": ") for line in result.stdout.splitlines())
    assert kinds == {name: name for name in FAULTS}


def print_kinds():
    """Prints the kinds of three verdicts on each of the faulty readers."""
    harness.TIME_LIMIT = 0.3
    for name in FAULTS:
        with tempfile.TemporaryDirectory() as scratch:
            found = list(Fuzzer(make_reader(name), 0, pathlib.Path(scratch)).run([1, 2, 3]))
        assert [verdict.case for verdict in found] == [1, 2, 3]
        print(f"{name}: {' and '.join(sorted({verdict.kind for verdict in found}))}")


def test_readers_refuse_or_read_damaged_inputs(in_new_process):
    """A few cases of each kind of reader. The slow suite has a minute of every reader."""
    readers = ("images", "coco", "prepared", "torch")
    result = in_new_process("-m", "fuzzing", "--cases", "20", "--reader", *readers)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("\n| ") == len(readers)


@pytest.mark.slow
def test_a_minute_of_every_reader(in_new_process):
    """Another seed than that of the default suite."""
    result = in_new_process("-m", "fuzzing", "--cases", "100000", "--seconds", "60", "--seed", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("\n| ") >= 24


if __name__ == "__main__":
    print_kinds()
