import errno
import json
import os

import pytest

from segjax.files import atomic_path, write_atomic, write_json


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("data", ["grün\n", "grün\n".encode()])
def test_text_and_bytes_are_written_and_folders_are_made(tmp_path, data):
    path = tmp_path / "new" / "deep" / "file.txt"
    write_atomic(path, "earlier, and longer")
    write_atomic(str(path), data)
    assert path.read_bytes() == "grün\n".encode()
    assert names(path.parent) == ["file.txt"]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and str(os.getpid()) in partial.name
    assert path.read_text() == "new" and names(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), atomic_path(path) as partial:
        partial.write_text("ne")
        raise OSError("disk full")
    with pytest.raises(TypeError):
        write_atomic(path, 3)
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_a_full_disk_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match="No space left on device: .*file"),
        atomic_path(tmp_path / "file"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_json_is_sorted_and_indented_by_default(tmp_path):
    write_json(tmp_path / "sorted.json", {"b": 1, "a": [2.5, None]})
    assert (
        tmp_path / "sorted.json"
    ).read_text() == '{\n  "a": [\n    2.5,\n    null\n  ],\n  "b": 1\n}\n'
    write_json(tmp_path / "given.json", {"b": 1, "a": 2}, indent=1, sort_keys=False)
    assert (tmp_path / "given.json").read_text() == '{\n "b": 1,\n "a": 2\n}\n'


def test_json_raises_for_invalid_values_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"images": 2})
    with pytest.raises(
        ValueError, match=r"numbers\.json is not written: .*replace infinite numbers and NaN"
    ):
        write_json(path, {"iou@1": float("nan")})
    with pytest.raises(TypeError):
        write_json(path, {"what": object()})
    assert json.loads(path.read_text()) == {"images": 2} and names(tmp_path) == ["numbers.json"]
