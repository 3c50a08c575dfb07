"""Aspect ratio grouping: the order of batches, resuming it, and placeholders of broken images."""

import pickle

import numpy as np
import pytest

from segjax.data.aspect_batches import AspectGroupedExample, AspectGroupedOrder, is_portrait
from segjax.data.loader import make_loader

BATCH = 4


class Images:
    """Records of which every third is portrait. Those in `broken` cannot be read a second time."""

    def __init__(self, count, broken=()):
        self.count, self.broken, self.read = count, broken, set()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken and index in self.read:
            raise OSError("gone")
        self.read.add(index)
        return {"image_id": str(index), "height": 3 if index % 3 == 0 else 2, "width": 2}


class Maker:
    def __init__(self, shape):
        self.shape = shape

    def __call__(self, record, rng):
        return {
            "image": np.full(self.shape, int(record["image_id"]), np.int32),
            "weight": np.float32(1),
        }

    def placeholder(self):
        return {"image": np.full(self.shape, -1, np.int32), "weight": np.float32(0)}


def orders(count=17, seed=0):
    return AspectGroupedOrder(Images(count), BATCH, seed)


def test_each_batch_has_one_orientation_and_each_image_comes_once():
    order = orders()
    batches = np.array(
        [[order[BATCH * batch + row] for row in range(BATCH)] for batch in range(17 * 3)]
    )
    of_batch = {tuple(np.unique(rows % 3 == 0)) for rows in batches}
    assert of_batch == {(False,), (True,)}
    times = np.bincount(batches.ravel(), minlength=17)
    assert times.sum() == 12 * 17 and set(times) <= {11, 12, 13}, (
        "what waits comes in the next epoch"
    )
    assert not any(set(a) == set(b) for a, b in zip(batches[:4], batches[4:8], strict=True)), (
        "drawn anew"
    )


def test_images_come_as_soon_as_they_fill_a_batch():
    """Counts batches of four from six landscape and three portrait images.

    The first epoch has one landscape batch, the second one of each kind.
    """
    order = orders(9)
    kinds = [order[BATCH * batch] % 3 == 0 for batch in range(6)]
    assert not kinds[0] and any(kinds)
    lying = [order[BATCH * b + r] for b in range(6) for r in range(BATCH) if not kinds[b]]
    assert len(set(lying[:6])) == 6, "all six before any comes again"


def test_the_order_depends_on_the_seed_only():
    one, other = orders(), pickle.loads(pickle.dumps(orders()))
    backwards = [other[place] for place in reversed(range(200))]
    assert [one[place] for place in range(200)] == backwards[::-1]
    assert [orders(seed=1)[place] for place in range(200)] != backwards[::-1]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_share_the_batches_and_resume(workers):
    def batches(count, start=0, **place):
        source = Images(17)
        order = AspectGroupedOrder(source, BATCH, 5)
        example = AspectGroupedExample(Maker((2, 3)), Maker((3, 2)), order)
        options = dict(batch_size=BATCH, seed=5, start=start, order=order, workers=workers)
        with make_loader(source, example, **options, **place) as loader:
            return [next(loader) for _ in range(count)]

    whole = batches(9)
    for batch in whole:
        assert batch["image"].shape[1:] == ((3, 2) if batch["index"][0] % 3 == 0 else (2, 3))
        np.testing.assert_array_equal(batch["image"][:, 0, 0], batch["index"])
    shares = [batches(9, process_index=process, process_count=2) for process in range(2)]
    for batch, first, second in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(
            batch["index"], np.concatenate([first["index"], second["index"]])
        )
    for batch, again in zip(whole[5:], batches(4, start=5 * BATCH), strict=True):
        np.testing.assert_array_equal(batch["index"], again["index"])


def test_an_image_that_cannot_be_read_at_the_start_is_named():
    source = Images(5, broken=(3,))
    source[3]
    with pytest.raises(
        ValueError,
        match="image 3 of the training data cannot be read .gone.*by_orientation=False",
    ):
        AspectGroupedOrder(source, BATCH, 0)


def test_an_image_that_breaks_later_gets_a_placeholder_of_its_orientation():
    source = Images(12, broken=(0, 1))
    order = AspectGroupedOrder(source, BATCH, 0)
    example = AspectGroupedExample(Maker((2, 3)), Maker((3, 2)), order)
    with make_loader(source, example, batch_size=BATCH, order=order, max_broken=1) as loader:
        rows = [next(loader) for _ in range(3)]
    places = [(batch, row) for batch in rows for row in np.flatnonzero(batch["weight"] == 0)]
    broken = {int(batch["index"][row]): batch["image"][row].shape for batch, row in places}
    assert broken == {0: (3, 2), 1: (2, 3)}
    assert example.placeholder()["image"].shape == (2, 3) and not is_portrait(
        {"height": 2, "width": 2}
    )
