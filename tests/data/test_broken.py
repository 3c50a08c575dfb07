"""Broken records: skipped, named once in a file of the run, and an error if there are many."""

import json
import pickle
import threading

import numpy as np
import pytest

from segjax.data.broken import BrokenDataError, BrokenRecords
from segjax.data.examples.crop import CropExample
from segjax.data.loader import make_loader


class Images:
    """Records of 8 x 8 pixels. Those in `cut` cannot be decoded, those in `lost` cannot be read."""

    def __init__(self, count, cut=(), lost=()):
        self.count, self.cut, self.lost = count, cut, lost

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.lost:
            raise OSError(f"sector of {index}")
        image = b"GARBAGE" if index in self.cut else np.full((8, 8, 3), index % 256, np.uint8)
        return {"image": image, "image_id": f"n{index}.JPEG"}


def take(steps, source, **options):
    with make_loader(source, CropExample(4), **({"batch_size": 4, "seed": 3} | options)) as batches:
        return [next(batches) for _ in range(steps)]


def named(folder):
    return [
        json.loads(line)
        for path in folder.glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]


@pytest.mark.parametrize("options", [{"threads": 3}, {"workers": 2}], ids=["threads", "workers"])
def test_broken_records_are_skipped_and_named_once_and_many_stop_the_run(tmp_path, options):
    folder = tmp_path / "broken"
    options = dict(batch_size=4, broken_folder=folder, max_broken=0.08) | options
    with make_loader(Images(20, cut={3}, lost={7}), CropExample(4), **options) as loader:
        batches = [next(loader) for _ in range(20)]  # four epochs
        lines = {line["position"]: line for line in named(folder)}
        assert len(named(folder)) == 2 and set(lines) == {3, 7}
        with pytest.raises(
            BrokenDataError, match=r"2\d of \d+ examples are broken.*max_broken = 0.08.*named in"
        ):
            for _ in range(400):
                next(loader)
    index, weight = (
        np.concatenate([batch[name] for batch in batches]) for name in ("index", "weight")
    )
    np.testing.assert_array_equal(weight == 0, np.isin(index, [3, 7]))
    assert np.bincount(index).tolist() == [4] * 20
    assert lines[3]["image_id"] == "n3.JPEG" and lines[3]["reason"].startswith(
        "ImageError: image 'n3.JPEG': 7 bytes"
    )
    assert lines[7]["image_id"] is None and lines[7]["reason"] == "OSError: sector of 7"
    assert lines[3]["seen"] >= lines[3]["broken"] >= 1
    take(10, Images(20, cut={3}), broken_folder=folder)  # resumed: the record is named already
    assert len(named(folder)) == 2


def test_each_process_writes_a_file_and_reads_those_of_others(tmp_path):
    accounts = [BrokenRecords(tmp_path, host, 0.5) for host in (0, 1)]
    for account, position in [
        (accounts[0], 5),
        (accounts[1], 6),
        (accounts[1], 5),
        (accounts[0], 6),
        (accounts[0], 5),
    ]:
        account.count_broken(position, None, OSError("x"), of=100)
        account.count_read()
    files = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert files == ["0", "1"] and sorted(line["position"] for line in named(tmp_path)) == [5, 6]


def test_an_incomplete_line_of_another_process_is_read_later(tmp_path):
    account = BrokenRecords(tmp_path, 0, 0.5)
    (tmp_path / "1-1.jsonl").write_bytes(b'{"position": 1}\n{"posi')
    account.count_broken(1, None, OSError("x"), of=100)
    assert len(list(tmp_path.iterdir())) == 1  # it is named already
    (tmp_path / "1-1.jsonl").write_bytes(b'{"position": 1}\n{"position": 2}\n')
    account.count_broken(2, None, OSError("x"), of=100)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("line", [b"", b"\0\0", b"[]", b"{}", b'{"position": "x"}', b"[" * 10**5])
def test_a_damaged_line_ends_no_run(tmp_path, caplog, line):
    account = BrokenRecords(tmp_path, 0, 0.5)
    (tmp_path / "1-1.jsonl").write_bytes(line + b'\n{"position": 1}\n')
    account.count_broken(1, None, OSError("x"), of=100)
    assert len(list(tmp_path.iterdir())) == 1  # the intact line counts
    assert "is damaged; its record may be named twice" in caplog.text


def test_a_share_above_the_limit_stops_the_run(tmp_path):
    source = Images(1000, cut=set(range(0, 1000, 50)))  # 2 %
    with pytest.raises(
        BrokenDataError, match=r"2\d of \d+ examples are broken.*max_broken = 0.01.*\(n\d+.JPEG\)"
    ):
        take(1000, source, broken_folder=tmp_path / "broken", batch_size=50)
    assert len(named(tmp_path / "broken")) >= 20
    take(60, source, max_broken=0.03, batch_size=50)  # three epochs


def test_few_broken_records_are_tolerated_unless_the_limit_is_zero():
    source = Images(10, cut={1, 2, 3})
    assert sum((batch["weight"] == 0).sum() for batch in take(5, source)) == 6
    with pytest.raises(BrokenDataError, match="1 of .*max_broken = 0 "):
        take(5, source, max_broken=0.0)
    with pytest.raises(ValueError, match="max_broken is the share"):
        take(1, source, max_broken=1.5)


def test_a_source_of_broken_records_stops_at_once():
    with pytest.raises(
        BrokenDataError,
        match=r"^16 records broke one after another, the last was record \d+: OSError",
    ):
        take(30, Images(100, lost=set(range(100))), max_broken=1.0, threads=0)


def test_threads_share_the_counts_and_a_copy_starts_at_zero(tmp_path):
    account = BrokenRecords(tmp_path, 0, 1.0)

    def read(offset):
        for position in range(offset, offset + 50):
            account.count_broken(position, None, OSError("x"), of=10**6)
            account.count_read()

    threads = [threading.Thread(target=read, args=(50 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = named(tmp_path)
    assert (
        sorted(line["position"] for line in lines) == list(range(200))
        and lines[-1]["broken"] == 200
    )
    again = pickle.loads(pickle.dumps(account))
    again.count_broken(1000, None, OSError("x"), of=10**6)
    assert named(tmp_path)[-1]["seen"] == 1
