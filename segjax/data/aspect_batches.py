"""Batches of pictures that all lie or all stand: their canvas fits, where one for both would be mostly padding."""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.loader import ENDLESS

logger = logging.getLogger(__name__)


def is_portrait(record: Mapping[str, Any]) -> bool:
    """Whether a picture is higher than wide."""
    return int(record["height"]) > int(record["width"])


class AspectGroupedOrder:
    """The order of a training, endless: `order[i]` is the position in the source of example i, counted from its start.

    Each epoch's order is drawn anew. Pictures wait, lying ones and standing ones apart, until there are enough for a
    batch, so an epoch's last ones may come in the next. An order for `make_loader`; picklable.

    Args:
      source: records; every one is read here, for its orientation.
      batch_size: of all processes together: every run of so many examples has one orientation.
      seed: of the order.

    Raises ValueError for a record that cannot be read: the processes of a run might else disagree.
    """

    def __init__(self, source: Sequence[Mapping[str, Any]], batch_size: int, seed: int):
        logger.info("reading which of %d pictures stand", len(source))
        self.portrait = np.array(
            [self._stands(source, index) for index in range(len(source))], bool
        )
        self._batch_size, self._seed = batch_size, seed
        self._start()

    @staticmethod
    def _stands(source: Sequence[Mapping[str, Any]], index: int) -> bool:
        try:
            return is_portrait(source[index])
        except Exception as error:
            raise ValueError(
                f"picture {index} of the training data cannot be read ({error}); data.by_orientation needs the height "
                "and width of each: prepare the data again, or set config.data.by_orientation=False"
            ) from error

    def __getitem__(self, place: int) -> int:
        batch, row = divmod(int(place), self._batch_size)
        with self._lock:
            while batch >= self._ends[-1]:
                self._draw_epoch()
        epoch = int(np.searchsorted(self._ends, batch, side="right")) - 1
        return int(self._epochs[epoch][batch - self._ends[epoch], row])

    def __len__(self) -> int:
        return ENDLESS // self._batch_size * self._batch_size

    def _start(self) -> None:
        self._lock, self._epochs, self._ends = threading.Lock(), [], [0]
        self._waiting = [np.zeros(0, np.int64), np.zeros(0, np.int64)]  # lying, standing

    def _draw_epoch(self) -> None:
        count, size = len(self.portrait), self._batch_size
        order = np.random.default_rng((self._seed, len(self._epochs))).permutation(count)
        batches, ready = [], []
        for standing in (False, True):
            came = np.flatnonzero(self.portrait[order] == standing)  # when, in this epoch
            before = self._waiting[standing]
            pictures = np.concatenate([before, order[came]])
            full = len(pictures) // size
            batches.append(pictures[: full * size].reshape(full, size))
            ready.append(came[np.arange(1, full + 1) * size - 1 - len(before)])
            self._waiting[standing] = pictures[full * size :]
        first_come = np.argsort(np.concatenate(ready), kind="stable")
        self._epochs.append(np.concatenate(batches)[first_come])
        self._ends.append(self._ends[-1] + len(first_come))

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("standing", "_batch_size", "_seed")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


class AspectGroupedExample:
    """Callable (record, rng) -> example, by one of two makers; a loader's ``example_fn``.

    Args:
      lying, standing: makers for pictures of either orientation.
      order: which positions of the source stand, for the placeholders of pictures that cannot be read.
    """

    def __init__(self, lying: Any, standing: Any, order: AspectGroupedOrder):
        self._makers, self._order = (lying, standing), order

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The example of ``record``; raises as the makers do."""
        return self._makers[is_portrait(record)](record, rng)

    def placeholder(self) -> dict[str, np.ndarray]:
        """An example that counts for nothing, of those that lie."""
        return self._makers[0].placeholder()

    def placeholder_at(self, position: int) -> dict[str, np.ndarray]:
        """The one in place of the picture at that position of the source."""
        return self._makers[bool(self._order.portrait[position])].placeholder()
