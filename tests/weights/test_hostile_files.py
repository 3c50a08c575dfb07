"""Weight files that would exhaust memory, time or the stack: one clear sentence for each."""

import io
import json
import pickle
import pickletools
import random
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from segjax.weights.pickle_file import read_pickle
from segjax.weights.safetensors import read_arrays, read_variables, save_variables
from segjax.weights.state_dict import find_state_dict
from segjax.weights.torch_file import read_torch
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import CheckpointError


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def doubled_lists(count: int) -> bytes:
    """Returns [[...], [...]], each level twice the one below, in a few bytes a level."""
    level = b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(count))
    return b"\x80\x02]q\x00" + level + b"."


def repeated_text(times: int) -> bytes:
    """Returns a list of one long text, encoded again and again."""
    call = b"c_codecs\nencode\nh\x00X\x06\0\0\0latin1\x86R"
    return b"\x80\x02" + text("a" * 1_000_000) + b"q\x00](" + call * times + b"e."


HOSTILE = {
    "memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
    "deep tuple": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "deep list": b"\x80\x02" + b"](" * 100_000 + b"e" * 100_000 + b".",
    "list in itself": b"\x80\x02]q\x00h\x00a.",
    "huge integer": b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "bytes of 1 TiB": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "text of 4 GiB": b"\x80\x04X\xff\xff\xff\xffabc.",
    "decimal": b"I" + b"9" * 100_000 + b"\n.",
    "copies": repeated_text(3_000),
    "extension": b"\x80\x02\x82\x01.",
}
HARMLESS = {
    "doubled lists": doubled_lists(60),
    "deep tuple as key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
}


def write_archive(path, pickled, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in members.items():
            archive.writestr(f"a/{name}", data)


def measure(function):
    """Returns seconds and peak bytes of a call."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        function()
    finally:
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return seconds, peak


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in HARMLESS])
@pytest.mark.parametrize("read, suffix", [(read_pickle, ".pkl"), (read_torch, ".pth")])
def test_hostile_pickles_are_refused_in_one_line(tmp_path, name, read, suffix):
    path = tmp_path / f"file{suffix}"
    if suffix == ".pkl":
        path.write_bytes(HOSTILE[name])
    else:
        write_archive(path, HOSTILE[name])

    def call():
        with pytest.raises(CheckpointError, match=r"file\.p.. \(\d+ bytes\) is ") as error:
            read(path)
        assert len(str(error.value)) < 400 and "\n" not in str(error.value)

    seconds, peak = measure(call)
    assert seconds < 8 and peak < 100 << 20


@pytest.mark.parametrize("name", HARMLESS)
def test_odd_pickles_take_little_and_hold_no_state_dict(tmp_path, name):
    (tmp_path / "file.pkl").write_bytes(HARMLESS[name])

    def call():
        with pytest.raises(CheckpointError, match="expected"):
            find_state_dict(read_pickle(tmp_path / "file.pkl"), source="file")

    seconds, peak = measure(call)
    assert seconds < 8 and peak < 100 << 20


def flip_flag(data: bytes) -> bytes:
    """Marks the first member of an archive as encrypted, in both of its headers."""
    changed = bytearray(data)
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[data.index(signature) + at] |= 1
    return bytes(changed)


def test_archives_expand_within_bounds(tmp_path):
    path = tmp_path / "file.pth"
    bomb = b"\x80\x02C\x01a" + b"0N" * (100 << 20) + b"."
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bomb)
    assert path.stat().st_size < 1 << 20
    assert measure(lambda: refused(path, "would expand to more than 16 times"))[1] < 50 << 20
    # A member that claims little and holds more
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.rindex(signature) + at
        data[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(data)
    assert measure(lambda: refused(path, "damaged"))[1] < 50 << 20


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as error:
        read_torch(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_encrypted_twofold_and_foreign_members_are_refused(tmp_path):
    path = tmp_path / "file.pth"
    write_archive(path, pickle.dumps({}, 2))
    path.write_bytes(flip_flag(path.read_bytes()))
    refused(path, "member 'a/data.pkl' is encrypted")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
    refused(path, "compressed by method 12")
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            with pytest.warns() if archive.namelist() else io.BytesIO():
                archive.writestr("a/data.pkl", pickle.dumps({}, 2))
    refused(path, "two members of the archive have the same name")


def test_a_directory_that_claims_gigabytes_is_refused(tmp_path):
    path = tmp_path / "file.pth"
    write_archive(path, pickle.dumps({}, 2))
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", 0x7FFFFFFF)
    path.write_bytes(data)
    assert measure(lambda: refused(path, "damaged"))[1] < 10 << 20


def test_a_tensor_cannot_repeat_its_storage_without_bound(tmp_path):
    path = tmp_path / "file.pth"
    write_torch(path, {"x": np.ones((2, 4), np.float32)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("archive/data.pkl")
    shape = b"(\x8a\x08" + struct.pack("<q", 2) + b"\x8a\x08" + struct.pack("<q", 4) + b"t"
    strides = b"(\x8a\x08" + struct.pack("<q", 4) + b"\x8a\x08" + struct.pack("<q", 1) + b"t"
    huge = b"(\x8a\x08" + struct.pack("<q", 1 << 40) + b"K\x01t"
    assert shape in pickled and strides in pickled
    changed = pickled.replace(shape, huge).replace(strides, b"(K\x00K\x00t")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", changed)
        archive.writestr("archive/data/0", np.ones(8, np.float32).tobytes())
    refused(path, r"a tensor of shape \(1099511627776, 1\) has a storage of 8 elements")


def test_every_opcode_of_the_standard_library_is_known_or_refused():
    """Opcodes that are not read: extensions of a registry, and buffers out of band."""
    from segjax.weights.pickles.opcodes import OPCODES

    known = {ord(opcode.code) for opcode in pickletools.opcodes}
    assert set(OPCODES) <= known
    assert known - set(OPCODES) == {ord("."), 0x82, 0x83, 0x84, 0x97, 0x98}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Returns data with a few bytes flipped, cut out, doubled or overwritten."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) or 1)
        kind = rng.randrange(4)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at : at + rng.randint(1, 20)]
        elif kind == 2:
            changed[at:at] = changed[at : at + rng.randint(1, 20)]
        else:
            changed[at : at + 4] = rng.choice(
                [b"\xff" * 4, b"\0" * 4, b"(((]", b"\x7f\xff\xff\xff"]
            )
    return bytes(changed)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".safetensors"])
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    state = {"a": np.ones((2, 3), np.float32), "b": np.arange(3)}
    read = {".pkl": read_pickle, ".pth": read_torch, ".safetensors": read_arrays}[suffix]
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": state, "__author__": "a"}, 2))
    elif suffix == ".pth":
        write_torch(path, state)
    else:
        save_variables(path, {"params": state}, {"model": {"name": "sam_debug"}})
    data, rng, refusals = path.read_bytes(), random.Random(0), 0
    read(path)
    for _ in range(400):
        path.write_bytes(mutate(data, rng))
        try:
            read(path)
        except CheckpointError as error:
            refusals += 1
            assert "\n" not in str(error) and len(str(error)) < 3100
    assert refusals > 40


def entry(dtype, shape, size):
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


@pytest.mark.parametrize(
    "header, said",
    [
        (b'{"a":' + b"[" * 100_000, "recursion limit"),
        ({"a": entry("F32", [1 << 62, 8], 0)}, "overflow"),
        ({"a": entry("F32", [0, 1 << 62], 0)}, "array 'a' cannot be read"),
        ({"a": entry("F32", [1 << 63, 0], 0)}, "array 'a' cannot be read"),
        ({"a": entry("F32", [1] * 100, 4)}, "array 'a' cannot be read"),
        ({"a": entry("F8_E4M3", [4], 4)}, "array 'a' cannot be read"),
        ({"a": entry("EVIL\n", [4], 4)}, "unknown variant"),
        ({"a": entry("F32", [-1], 4)}, "invalid"),
        ({"a": entry("F32", [1000], 4)}, "damaged"),
        ({"a": entry("F32", [1], 4), "b": entry("F32", [1], 4)}, "invalid offset"),
        ({"__metadata__": {"a": 5}}, "invalid type"),
        ({"params/" + "/".join("a" * 9999): entry("F32", [1], 4)}, "more than 50 levels deep"),
        ({"params." + ".".join("a" * 9999): entry("F32", [1], 4)}, "more than 50 levels deep"),
        ({"a\nb" * 9999: entry("F32", [1], 4)}, "was not written by segjax"),
    ],
)
def test_hostile_headers_of_safetensors(tmp_path, header, said):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "file.safetensors"
    data = b"1234" * (b"[0, 4]" in header)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)

    def call():
        with pytest.raises(CheckpointError, match=said) as error:
            read_variables(path)
        assert len(str(error.value)) < 600 and "\n" not in str(error.value)

    seconds, peak = measure(call)
    assert seconds < 2 and peak < 10 << 20


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    (tmp_path / "file.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(CheckpointError, match="header too large"):
        read_arrays(tmp_path / "file.safetensors")
