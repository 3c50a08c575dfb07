"""detectron2's pickles: arrays of any version of pickle and NumPy, and nothing else."""

import argparse
import collections
import pathlib
import pickle

import numpy as np
import pytest

from segjax.weights.pickle_file import read_pickle
from segjax.weights.tree import CheckpointError

ARRAYS = collections.OrderedDict(
    matrix=np.arange(6, dtype=np.float32).reshape(2, 3),
    columns=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    number=np.array(3),
    scalar=np.float32(2.5),
    swapped=np.arange(3, dtype=">f4"),
    half=np.ones(2, np.float16),
    empty=np.zeros((0, 4), np.float32),
    flags=np.array([True, False]),
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("package", [b"numpy._core", b"numpy.core"])
def test_arrays_come_back(tmp_path, protocol, package):
    data = pickle.dumps({"model": ARRAYS, "__author__": "somebody"}, protocol)
    if protocol < 4:  # where names are lines of text: as older versions of NumPy wrote them
        data = data.replace(b"cnumpy._core.", b"c" + package + b".")
    (tmp_path / "a.pkl").write_bytes(data)
    found = read_pickle(tmp_path / "a.pkl")
    assert found["__author__"] == "somebody" and list(found["model"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found["model"][name].dtype == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(
            found["model"][name], array, strict=name != "swapped", err_msg=name
        )


def test_bytes_that_python_2_wrote_as_text(tmp_path):
    """Strings of Python 2 are bytes, which Python 3 decodes by the given encoding."""
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    opcodes = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)])
        + raw
        + b"tbs."
    )
    (tmp_path / "a.pkl").write_bytes(opcodes)
    np.testing.assert_array_equal(read_pickle(tmp_path / "a.pkl")["a"], [1.5, -2.0])


class Evil:
    def __reduce__(self):
        return (eval, ("print('run!')",))


def test_a_function_that_runs_programs_is_refused(tmp_path, capsys):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(
        CheckpointError,
        match=r"evil.pkl \(\d+ bytes\) is refused: its pickle asks for builtins.eval",
    ):
        read_pickle(tmp_path / "evil.pkl")
    assert not capsys.readouterr().out


def test_other_objects_and_arrays_without_numbers_are_inert(tmp_path):
    content = {"args": argparse.Namespace(lr=0.1), "objects": np.array([{}, None], object)}
    content |= {"text": np.array(["a"]), "folder": pathlib.PurePosixPath("/a"), "set": {1, 2}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content | {"lr": 0.1}))
    found = read_pickle(tmp_path / "a.pkl")
    assert found["lr"] == 0.1 and found["set"] == [1, 2]
    descriptions = {
        key: value.description for key, value in found.items() if key in content and key != "set"
    }
    assert descriptions == {
        "args": "an object of argparse.Namespace",
        "objects": "an array of O8",
        "text": "an array of U1",
        "folder": "an object of pathlib.PurePosixPath",
    }


def test_damage_is_said(tmp_path):
    data = pickle.dumps({"model": dict(ARRAYS)})
    for name, content in (("cut", data[:-40]), ("text", b"<html>"), ("none", b"")):
        (tmp_path / f"{name}.pkl").write_bytes(content)
        with pytest.raises(
            CheckpointError,
            match=rf"{name}.pkl \({len(content)} bytes\) is no pickle, or is truncated",
        ):
            read_pickle(tmp_path / f"{name}.pkl")
    with pytest.raises(FileNotFoundError, match="no file .*nothing.pkl; expected a pickle"):
        read_pickle(tmp_path / "nothing.pkl")
