"""Mixtures of sources: their form, their order, and the records behind an index."""

import collections
import pickle

import numpy as np
import pytest

from segjax.data.loader import make_loader
from segjax.data.mixture import MixedRecords, MixtureEntry, MixtureOrder, parse_mixture
from segjax.data.prepare import prepare
from segjax.data.splits import describe_categories, describe_split, list_splits, open_split

DATA = {"train_split": "train", "eval_split": "val"}
SCENES = dict(train_count=6, eval_count=3, size=32, seed=0, difficulty="easy", kind="shapes")


def parse(source):
    return parse_mixture(DATA | {"source": source})


def test_a_single_source_is_a_mixture_of_one():
    assert parse("data/a") == [MixtureEntry("data/a", 1.0, "train", "val")]


@pytest.mark.parametrize(
    "source",
    [
        [("data/a", 10), ("data/b", 0.5, "train2017", "val2017")],
        [["data/a", 10], ["data/b", 0.5, "train2017", "val2017"]],  # as JSON gives it back
        "[('data/a', 10), ('data/b', 0.5, 'train2017', 'val2017')]",  # as typed in a shell
    ],
)
def test_entries_have_weights_and_may_have_splits(source):
    assert parse(source) == [
        MixtureEntry("data/a", 10.0, "train", "val"),
        MixtureEntry("data/b", 0.5, "train2017", "val2017"),
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "empty list"),
        ([("data/a", 0), ("data/b", 1)], "'data/a' the weight 0"),
        ([("data/a", float("nan"))], "weight nan"),
        ([("data/a", True)], "weight True"),
        ([("data/a", 1), ("data/a", 2)], "twice"),
        ([("data/a", 1), ("data/a/", 2)], "twice"),
        ([("data/a", 1, "train")], r"entry \('data/a', 1, 'train'\)"),
        (["data/a", "data/b"], "entry 'data/a'"),
        ("[('data/a', 1", "expected a folder"),
        (3, "config.data.source is 3"),
    ],
)
def test_invalid_mixtures_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        parse(source)


@pytest.mark.parametrize("others", [[], [("data/a", 1)]])
def test_a_misspelt_split_of_synthetic_scenes_is_an_error_in_any_list(others):
    source = [("synthetic", 1, "trian", "val"), *others]
    with pytest.raises(ValueError, match="train_split is 'trian'.*train split is 'train'"):
        open_split(DATA | {"source": source, "scenes": SCENES}, "train")


def test_sources_are_drawn_by_weight_and_their_records_equally_often():
    sizes, weights = [50, 7, 20], [4, 1, 2]
    order = MixtureOrder(sizes, weights, seed=3)
    drawn = [order[example] for example in range(1400)]
    starts = np.cumsum([0, *sizes])
    source = np.searchsorted(starts, drawn, side="right") - 1
    assert collections.Counter(source.tolist()) == {0: 800, 1: 200, 2: 400}
    for number, size in enumerate(sizes):
        counts = np.bincount(np.array(drawn)[source == number] - starts[number], minlength=size)
        assert counts.max() - counts.min() <= 1
    # Every stretch keeps the shares
    for start in range(0, 1400, 70):
        assert np.bincount(source[start : start + 70], minlength=3) == pytest.approx(
            [40, 10, 20], abs=2
        )


def test_the_order_is_shuffled_by_seed_and_computed_anywhere():
    orders = [MixtureOrder([9, 5], [1, 1], seed=seed) for seed in (0, 0, 1)]
    first, same, other = ([order[example] for example in range(40)] for order in orders)
    assert first == same != other
    assert 0 <= orders[0][10**12] < 14
    restored = pickle.loads(pickle.dumps(orders[0]))
    assert [restored[example] for example in range(40)] == first


class Number:
    """Example function that returns the record itself."""

    def __call__(self, record, rng):
        return {"record": np.int64(record), "noise": rng.integers(1000)}

    def placeholder(self):
        return {"record": np.int64(-1), "noise": np.int64(0)}


def test_a_resumed_run_and_two_processes_see_the_same_examples():
    entries = [MixtureEntry(name, weight, "", "") for name, weight in (("a", 3), ("b", 1))]
    records = MixedRecords([range(10), range(100, 104)], entries)
    assert [records[index] for index in (0, 9, 10, 13)] == [0, 9, 100, 103]
    with pytest.raises(IndexError):
        records[14]
    order = MixtureOrder(records.sizes, [3, 1], seed=5)

    def read(count, **position):
        options = dict(seed=5, order=order, threads=0) | position
        with make_loader(records, Number(), batch_size=4, **options) as loader:
            return [next(loader) for _ in range(count)]

    whole = read(6)
    resumed = read(3, start=12)
    for name in ("record", "noise"):
        np.testing.assert_array_equal(
            np.stack([batch[name] for batch in whole[3:]]),
            np.stack([batch[name] for batch in resumed]),
        )
    halves = [read(6, process_index=index, process_count=2) for index in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(
            batch["record"], np.concatenate([part["record"] for part in parts])
        )


def test_a_mixture_is_opened_and_described_source_by_source(tmp_path):
    prepare("synthetic", None, tmp_path / "scenes", count=4, size=32)
    folder = str(tmp_path / "scenes")
    split = list_splits(folder)[0]
    data = {"scenes": SCENES, "train_split": split, "eval_split": split}
    mixed = open_split(data | {"source": [("synthetic", 3), (folder, 1)]}, "train")
    assert mixed.sizes == [
        6,
        len(open_split(data | {"source": folder}, "train")),
    ] and mixed.entries == [
        MixtureEntry("synthetic", 3.0, "train", "val"),
        MixtureEntry(folder, 1.0, split, split),
    ]
    assert mixed[6]["image_id"] == open_split(data | {"source": folder}, "train")[0]["image_id"]
    text = describe_split(data | {"source": [("synthetic", 3), (folder, 1)]}, "train")
    assert "75% of the examples: 6 synthetic scenes" in text
    assert "25% of the examples: " in text and f"({split} of {folder})" in text
    with pytest.raises(ValueError, match="have different keypoints|have different classes"):
        figures = data | {"scenes": SCENES | {"kind": "figures"}}
        describe_categories(figures | {"source": [("synthetic", 3), (folder, 1)]})
