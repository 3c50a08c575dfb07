import logging
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from segjax.data import loader
from segjax.data.examples.promptable import PromptableExample
from segjax.data.loader import make_loader
from segjax.data.synthetic.scenes import SyntheticScenes


class Numbers:
    """Source whose record i is the number i. Records in ``broken`` raise."""

    def __init__(self, count, broken=()):
        self.count, self.broken, self.reads = count, broken, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.broken:
            raise OSError(f"disk sector of {index} is unreadable")
        return {"value": np.full(250, index, np.float32)}


class Noisy:
    """Example function that exposes its record and its random number."""

    def __call__(self, record, rng):
        return {
            "value": record["value"][0],
            "noise": np.float64(rng.random()),
            "weight": np.float32(1),
        }

    def placeholder(self):
        return {"value": np.float32(-1), "noise": np.float64(0), "weight": np.float32(0)}


def take(steps, source=None, **options):
    with make_loader(
        source or Numbers(10), Noisy(), **({"batch_size": 4, "seed": 3} | options)
    ) as batches:
        return [next(batches) for _ in range(steps)]


def assert_same(a, b):
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        assert left.keys() == right.keys()
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_each_epoch_has_every_example_once_in_another_order():
    values = np.concatenate(
        [batch["value"] for batch in take(10)]
    )  # 40 examples: four epochs of ten
    epochs = values.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert not np.array_equal(
        values, np.concatenate([batch["value"] for batch in take(10, seed=4)])
    )


def test_augmentation_differs_between_epochs_and_seeds():
    noise = np.concatenate([batch["noise"] for batch in take(10)])
    assert len(np.unique(noise)) == 40
    assert not np.isin(noise, np.concatenate([batch["noise"] for batch in take(10, seed=4)])).any()


def test_index_is_the_index_in_the_source():
    for batch in take(5):
        np.testing.assert_array_equal(batch["index"], batch["value"])
        assert batch["index"].dtype == np.int64


@pytest.mark.parametrize("consumed", [0, 4, 8, 12, 28])
def test_resuming_equals_continuing(consumed):
    assert_same(take(3, start=consumed), take(3 + consumed // 4)[consumed // 4 :])


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("start", [0, 8])
def test_processes_together_equal_one_process(processes, start):
    expected = take(4, start=start)
    parts = [
        take(4, start=start, process_index=p, process_count=processes) for p in range(processes)
    ]
    joined = [
        {name: np.concatenate([row[name] for row in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, expected)


def test_processes_read_disjoint_rows_and_another_number_of_them_can_resume():
    """Starts an epoch of 48 examples with two processes and resumes with three and with one."""
    seen = []
    for processes, start, steps in ((2, 0, 1), (3, 12, 2), (1, 36, 1)):
        parts = []
        for process in range(processes):
            source = Numbers(48)
            place = dict(process_index=process, process_count=processes)
            batches = take(steps, source, batch_size=12, start=start, threads=0, **place)
            index = np.stack([batch["index"] for batch in batches])
            assert index.shape == (steps, 12 // processes)
            assert sorted(source.reads) == sorted(index.ravel()), (
                "nothing is read that another process learns from"
            )
            parts.append(index)
        joined = np.concatenate(parts, axis=1).ravel()
        assert len(set(joined)) == len(joined), "no example in two processes"
        seen.append(joined)
    order = np.concatenate(seen)
    np.testing.assert_array_equal(np.sort(order), np.arange(48))
    np.testing.assert_array_equal(
        order, np.concatenate([b["index"] for b in take(4, Numbers(48), batch_size=12)])
    )


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
def test_shards_of_an_epoch_are_disjoint_and_complete(processes):
    """Reads two epochs of 60 examples in batches of 24; the second starts inside a batch."""
    parts = []
    for process in range(processes):
        batches = take(
            5, Numbers(60), batch_size=24, process_index=process, process_count=processes
        )
        parts.append(np.stack([batch["index"] for batch in batches]))
        assert parts[-1].shape == (5, 24 // processes)
    epochs = np.concatenate(parts, axis=1).reshape(2, 60)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(60), (2, 1)))


def test_threads_change_nothing():
    assert_same(take(8, threads=0), take(8, threads=3))


def test_workers_change_nothing_and_return_plain_arrays():
    scenes = SyntheticScenes("train", 6)
    example = PromptableExample(64, 2, 2, augment={"flip": True, "scale": (0.5, 1.5)})

    def batches(**options):
        with make_loader(scenes, example, batch_size=2, start=4, **options) as loader:
            return [next(loader) for _ in range(5)]

    by_workers = batches(workers=2, cache_mb=4)
    assert_same(by_workers, batches())
    assert all(type(array) is np.ndarray for batch in by_workers for array in batch.values())


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_evaluation_is_in_order_once_and_padded(processes):
    parts = []
    for process in range(processes):
        options = {"train": False, "process_index": process, "process_count": processes}
        with make_loader(Numbers(10), Noisy(), batch_size=4, **options) as loader:
            parts.append(list(loader))
    assert [len(part) for part in parts] == [3] * processes  # the same on each process
    steps = [np.concatenate([part[step]["value"] for part in parts]) for step in range(3)]
    np.testing.assert_array_equal(np.concatenate(steps), [*range(10), -1, -1])
    weights = np.concatenate([part[2]["weight"] for part in parts])
    indices = np.concatenate([part[2]["index"] for part in parts])
    assert weights.tolist() == [1, 1, 0, 0] and indices.tolist() == [8, 9, -1, -1]


def test_a_broken_record_becomes_a_placeholder_and_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        batches = take(10, source=Numbers(10, broken={7}))  # four epochs, so it is read four times
    healthy = take(10)
    weights = np.concatenate([batch["weight"] for batch in batches])
    indices = np.concatenate([batch["index"] for batch in batches])
    assert (weights[indices == 7] == 0).all() and (indices == 7).sum() == 4
    assert (weights[indices != 7] == 1).all()
    for batch, expected in zip(batches, healthy, strict=True):  # all other examples are unchanged
        kept = batch["index"] != 7
        np.testing.assert_array_equal(batch["noise"][kept], expected["noise"][kept])
    (message,) = [record.getMessage() for record in caplog.records]
    assert "record 7" in message and "disk sector of 7 is unreadable" in message


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_made_in_pieces_are_the_same(processes, monkeypatch):
    def batches():
        parts = [
            take(3, batch_size=24, process_index=p, process_count=processes)
            for p in range(processes)
        ]
        return [
            {k: np.concatenate([row[k] for row in step]) for k in step[0]}
            for step in zip(*parts, strict=True)
        ]

    expected = batches()
    monkeypatch.setattr(loader, "_PIECE", 4)
    assert_same(batches(), expected)
    evaluated = list(make_loader(Numbers(30), Noisy(), batch_size=8, train=False))
    assert np.concatenate([b["index"] for b in evaluated]).tolist() == [*range(30), -1, -1]


def test_the_cache_saves_reads_and_respects_its_limit():
    def reads(cache_mb):
        source = Numbers(10)
        take(20, source=source, cache_mb=cache_mb, threads=0)  # eight epochs
        return len(source.reads)

    assert reads(0) == 80
    assert reads(1) == 10
    room_for_four = 4 * 1300 / 2**20  # a record is 250 floats and some overhead
    assert reads(room_for_four) == 4 + 6 * 8


def test_a_closed_loader_is_exhausted():
    loader = make_loader(Numbers(10), Noisy(), batch_size=2)
    next(loader)
    loader.close()
    loader.close()
    assert list(loader) == []


@pytest.mark.slow
def test_an_unclosed_loader_ends_quietly(tmp_path):
    script = tmp_path / "forgetful.py"
    script.write_text(
        textwrap.dedent(
            """
            from segjax.data.loader import make_loader
            from segjax.data.synthetic.scenes import SyntheticScenes
            from segjax.data.examples.promptable import PromptableExample

            if __name__ == "__main__":
                example = PromptableExample(32, 2)
                threaded = make_loader(SyntheticScenes("train", 9), example, batch_size=2)
                forked = make_loader(SyntheticScenes("train", 9), example, batch_size=2, workers=1)
                kept = next(threaded), next(forked)
                print(kept[1]["image"].shape)
            """
        )
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and ended.stdout.strip() == "(2, 32, 32, 3)"
    assert ended.stderr.strip() == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": Numbers(0)}, "source is empty"),
        ({"batch_size": 5, "process_count": 2}, "batch_size 5 cannot be split over 2 processes"),
        ({"process_index": 2, "process_count": 2}, "process_index 2 is not one of 2"),
        ({"start": -1}, "start is the number of examples"),
        ({"seed": -1}, "seed must lie in"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_loader(**({"source": Numbers(4), "example_fn": Noisy(), "batch_size": 2} | options))


def test_an_example_function_without_placeholder_raises():
    with pytest.raises(TypeError, match=r"needs a method placeholder\(\)"):
        make_loader(Numbers(4), lambda record, rng: record, batch_size=2)
