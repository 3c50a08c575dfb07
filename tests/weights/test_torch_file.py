"""Files of torch.save, written by the standard library (without torch) and by torch."""

import argparse
import collections
import io
import os
import pathlib
import pickle
import sys
import types
import zipfile

import ml_dtypes
import numpy as np
import pytest

from segjax.weights.state_dict import find_state_dict
from segjax.weights.torch_file import read_torch
from segjax.weights.torch_writer import write_torch
from segjax.weights.tree import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)


class Tensor:
    """Tensor as torch pickles it: a function's name, and a storage elsewhere in the file."""

    def __init__(self, storage, shape, strides, offset=0):
        self.storage, self.place = storage, (offset, shape, strides)

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (
            self.storage,
            *self.place,
            False,
            {},
        )


class Storage:
    def __init__(self, key, kind, array):
        self.key, self.kind, self.array = key, kind, array


class Pickler(pickle.Pickler):
    legacy = False

    def persistent_id(self, thing):
        if not isinstance(thing, Storage):
            return None
        pid = (
            "storage",
            getattr(sys.modules["torch"], thing.kind),
            thing.key,
            "cpu",
            thing.array.size,
        )
        return (*pid, None) if self.legacy else pid


@pytest.fixture
def torch_names(monkeypatch):
    """Installs modules with the names of torch that its pickles mention."""
    torch, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "BFloat16Storage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def rebuild(*_):
        raise AssertionError("only its name is used")

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = (
        "torch._utils",
        *["_rebuild_tensor_v2"] * 2,
    )
    inner._rebuild_tensor_v2 = rebuild
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", inner)


def content():
    whole = Storage("0", "FloatStorage", BASE)
    half = Storage("1", "BFloat16Storage", np.array([1.5, -2, 3], ml_dtypes.bfloat16))
    state = {
        "whole": Tensor(whole, (4, 6), (6, 1)),
        "turned": Tensor(whole, (6, 4), (1, 6)),  # shares the storage
        "part": Tensor(whole, (2, 3), (6, 2), 7),
        "half": Tensor(half, (3,), (1,)),
        "count": Tensor(Storage("2", "LongStorage", np.array([41, 42])), (), (), 1),
        "none": Tensor(whole, (0, 3), (3, 1)),
    }
    return {"model": collections.OrderedDict(state), "epoch": 3, "notes": ["a", (1, None)]}


def dumped(thing, legacy=False, protocol=2):
    out = io.BytesIO()
    pickler = Pickler(out, protocol)
    pickler.legacy = legacy
    pickler.dump(thing)
    return out.getvalue()


def storages(thing):
    found = {tensor.storage.key: tensor.storage.array for tensor in thing["model"].values()}
    return {key: np.ascontiguousarray(array) for key, array in found.items()}


def write_zip(path, thing, pickled=None, compression=zipfile.ZIP_STORED, byteorder="little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("weights/data.pkl", dumped(thing) if pickled is None else pickled)
        archive.writestr("weights/byteorder", byteorder)
        for key, array in storages(thing).items():
            archive.writestr(f"weights/data/{key}", array.tobytes())
        archive.writestr("weights/version", "3\n")


def write_legacy(path, thing):
    machine = {"protocol_version": 1001, "little_endian": True}
    flat = storages(thing)
    heads = [
        pickle.dumps(MAGIC, 2),
        pickle.dumps(1001, 2),
        pickle.dumps(machine, 2),
        dumped(thing, legacy=True),
    ]
    raw = [np.int64(array.size).tobytes() + array.tobytes() for array in flat.values()]
    path.write_bytes(b"".join([*heads, pickle.dumps(list(flat), 2), *raw]))


def assert_content(found):
    state = found["model"]
    np.testing.assert_array_equal(state["whole"], BASE)
    np.testing.assert_array_equal(state["turned"], BASE.T)
    np.testing.assert_array_equal(state["part"], [[7, 9, 11], [13, 15, 17]])
    assert state["half"].dtype == ml_dtypes.bfloat16 and state["half"].tolist() == [1.5, -2, 3]
    assert state["count"].shape == () and state["count"] == 42 and state["count"].dtype == np.int64
    assert state["none"].shape == (0, 3)
    assert (found["epoch"], found["notes"]) == (3, ["a", (1, None)])
    assert list(state) == ["whole", "turned", "part", "half", "count", "none"]


def test_an_archive_is_read_without_copying(tmp_path, torch_names):
    write_zip(tmp_path / "file.pth", content())
    found = read_torch(tmp_path / "file.pth")
    assert_content(found)
    whole, turned = found["model"]["whole"], found["model"]["turned"]
    assert np.shares_memory(whole, turned) and not whole.flags.writeable
    base = whole
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_an_archive_that_was_packed_again_is_read_too(tmp_path, torch_names):
    write_zip(tmp_path / "file.pth", content(), compression=zipfile.ZIP_DEFLATED)
    assert_content(read_torch(tmp_path / "file.pth"))


def test_the_format_without_an_archive_is_read(tmp_path, torch_names):
    write_legacy(tmp_path / "file.pth", content())
    assert_content(read_torch(tmp_path / "file.pth"))


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path, torch_names, legacy
):
    witness = tmp_path / "witness"
    bad = pickle.dumps(Malicious(os.system, f"touch {witness}"), 2)
    pickle.loads(bad)
    assert witness.exists()  # it is live ammunition
    witness.unlink()
    if legacy:
        (tmp_path / "bad.pth").write_bytes(bad)
    else:
        write_zip(tmp_path / "bad.pth", content(), pickled=bad)
    with pytest.raises(
        CheckpointError, match=r"bad.pth .* is refused: its pickle asks for (posix|nt).system"
    ):
        read_torch(tmp_path / "bad.pth")
    assert not witness.exists()


@pytest.mark.parametrize("name", ["torch.load", "torch.nn.modules.linear.Linear", "mine.Config"])
def test_other_objects_are_inert(tmp_path, torch_names, name):
    module, function = name.rsplit(".", 1)
    state = pickle.dumps({"dtype": "int8"}, 2)[2:-1]
    pickled = f"}}X\4\0\0\0argsc{module}\n{function}\n)R".encode() + state + b"bs."
    write_zip(tmp_path / "file.pth", content(), pickled=pickled)
    assert read_torch(tmp_path / "file.pth")["args"].description == f"an object of {name}"


def test_a_pickle_cannot_change_what_the_next_file_meets(tmp_path, torch_names):
    state = pickle.dumps({"dtype": "int8"}, 2)[2:-1]  # to be set upon torch.FloatStorage
    write_zip(
        tmp_path / "bad.pth", content(), pickled=b"\x80\x02ctorch\nFloatStorage\n" + state + b"b."
    )
    assert str(read_torch(tmp_path / "bad.pth")) == "torch.FloatStorage"
    write_zip(tmp_path / "good.pth", content())
    assert_content(read_torch(tmp_path / "good.pth"))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_file_cut_anywhere_is_damaged_and_says_so(tmp_path, torch_names, write):
    write(tmp_path / "whole.pth", content())
    data = (tmp_path / "whole.pth").read_bytes()
    for end in (5, 40, 200, len(data) // 2, len(data) - 5):
        (tmp_path / "cut.pth").write_bytes(data[:end])
        with pytest.raises(
            CheckpointError, match=rf"cut.pth \({end} bytes\) is truncated or damaged"
        ):
            read_torch(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "place, said",
    [
        (dict(shape=(4, 7), strides=(7, 1)), "reaches element 27 of a storage of 24"),
        (dict(shape=(2,), strides=(-1,), offset=3), "strides"),
        (dict(shape=(2, 2), strides=(1,)), "strides"),
        (dict(shape=(4, 6), strides=(6, 1), offset=1), "reaches element 24"),
    ],
)
def test_a_tensor_must_stay_within_its_storage(tmp_path, torch_names, place, said):
    write_zip(
        tmp_path / "file.pth", {"model": {"x": Tensor(Storage("0", "FloatStorage", BASE), **place)}}
    )
    with pytest.raises(CheckpointError, match=said):
        read_torch(tmp_path / "file.pth")


def test_a_big_endian_file_is_named_as_such(tmp_path, torch_names):
    write_zip(tmp_path / "file.pth", content(), byteorder="big")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_torch(tmp_path / "file.pth")


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "no file of torch.save: it begins with b''"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "that is a web page"),
        (pickle.dumps([1, 2]), "is a pickle, but none of torch.save's"),
    ],
)
def test_what_is_no_file_of_torch_is_named(tmp_path, data, said):
    (tmp_path / "file.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=said):
        read_torch(tmp_path / "file.pth")
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        read_torch(tmp_path / "nowhere.pth")


def test_another_zip_archive_is_none_of_torchs(tmp_path):
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="it has no <name>/data.pkl"):
        read_torch(tmp_path / "file.pth")


def foreign_values():
    """Returns values that training scripts store beside the parameters."""
    values = {"epoch": 3, "best_loss": np.float64(0.25), "args": argparse.Namespace(lr=1e-3)}
    values |= {"history": np.arange(5.0), "folder": pathlib.PurePosixPath("/runs"), "names": {"a"}}
    return values | {"hyper_parameters": {"hook": Malicious(raise_if_called)}, "rate": 1 + 2j}


def raise_if_called():
    raise AssertionError("a function of a pickle was called")


@pytest.mark.parametrize("wrapper", ["model", "net", "ema", "state_dict", None])
@pytest.mark.parametrize("protocol", [2, 4])
def test_values_beside_the_tensors_are_ignored(tmp_path, torch_names, caplog, wrapper, protocol):
    tensor = Tensor(Storage("0", "FloatStorage", BASE), (4, 6), (6, 1))
    state = {"encoder.weight": tensor, "head.bias": tensor}
    saved = {wrapper: state, **foreign_values()} if wrapper else state | foreign_values()
    with zipfile.ZipFile(tmp_path / "file.pth", "w") as archive:
        archive.writestr("w/data.pkl", dumped(saved, protocol=protocol))
        archive.writestr("w/data/0", BASE.tobytes())
    found = find_state_dict(read_torch(tmp_path / "file.pth"), source="file")
    assert list(found) == ["encoder.weight", "head.bias"]
    np.testing.assert_array_equal(found["head.bias"], BASE)
    ignored = (
        "8: epoch (an int), best_loss (an array of shape ()), args (an object of argparse.Names"
    )
    assert (ignored in caplog.text) == (wrapper is None)


def test_an_unknown_object_inside_the_state_dict_is_an_error(tmp_path, torch_names):
    tensor = Tensor(Storage("0", "FloatStorage", BASE), (4, 6), (6, 1))
    state = {"encoder.weight": tensor, "encoder.scale": argparse.Namespace()}
    write_zip(tmp_path / "file.pth", content(), pickled=dumped({"model": state}))
    with pytest.raises(CheckpointError, match="'encoder.scale': an object of argparse.Namespace"):
        find_state_dict(read_torch(tmp_path / "file.pth"), source="file")


def test_arrays_of_numpy_are_parameters_where_there_are_no_tensors(tmp_path, torch_names):
    state = {"state_dict": {"a.weight": BASE, "cls_token": BASE[0]}}
    write_zip(tmp_path / "file.pth", content(), pickled=dumped(state))
    found = find_state_dict(read_torch(tmp_path / "file.pth"), source="file")
    assert list(found) == ["a.weight", "cls_token"] and type(found["cls_token"]) is np.ndarray


STATE = {
    "turned": BASE.T,
    "scalar": np.array(2.5),
    "half": np.array([[1, 2.5]], ml_dtypes.bfloat16),
    "none": np.zeros((0, 2), np.float16),
    "flags": np.array([True, False]),
    "number": np.arange(3),
}


def test_what_is_written_reads_back_equal(tmp_path):
    write_torch(tmp_path / "new" / "file.pth", STATE)
    found = read_torch(tmp_path / "new" / "file.pth")
    assert list(found) == list(STATE)
    for key, array in STATE.items():
        assert found[key].dtype == array.dtype and found[key].shape == array.shape
        np.testing.assert_array_equal(found[key], array)


def test_a_type_that_torch_does_not_have_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ValueError, match="name is complex64"):
        write_torch(tmp_path / "file.pth", {"name": np.ones(2, np.complex64)})
    assert not any(tmp_path.iterdir())


def test_torch_reads_what_we_write(tmp_path):
    torch = pytest.importorskip("torch")
    write_torch(tmp_path / "file.pth", STATE)
    for options in (dict(weights_only=True), dict(weights_only=True, mmap=True)):
        found = torch.load(tmp_path / "file.pth", **options)
        assert list(found) == list(STATE)
        for key, array in STATE.items():
            assert found[key].is_contiguous() and tuple(found[key].shape) == array.shape
            np.testing.assert_array_equal(found[key].double().numpy(), array.astype(np.float64))


@pytest.mark.parametrize("archive", [True, False])
def test_what_torch_writes_is_read(tmp_path, archive):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    state = {"whole": base, "turned": base.T, "part": base[1:3, ::2], "half": base.bfloat16()}
    state |= {
        "parameter": torch.nn.Parameter(base),
        "flag": torch.tensor(True),
        "none": torch.zeros(0, 3),
    }
    saved = {
        "model": collections.OrderedDict(state),
        "size": base.shape,
        "layer": torch.nn.Linear(2, 3).state_dict(),
    }
    torch.save(saved, tmp_path / "file.pth", _use_new_zipfile_serialization=archive)
    found = read_torch(tmp_path / "file.pth")
    for key, tensor in state.items():
        want = tensor.detach().double().numpy()
        assert found["model"][key].shape == want.shape
        np.testing.assert_array_equal(found["model"][key].astype(np.float64), want)
    assert tuple(found["size"]) == (4, 6)
    np.testing.assert_array_equal(found["layer"]["bias"], saved["layer"]["bias"].numpy())
