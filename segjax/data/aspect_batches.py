"""Aspect ratio grouping: batches hold only landscape or only portrait images.

The canvas of each group then fits its images. One canvas for both would be mostly padding.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.loader import ENDLESS

logger = logging.getLogger(__name__)


def is_portrait(record: Mapping[str, Any]) -> bool:
    """Returns True if the image of a record is taller than wide."""
    return int(record["height"]) > int(record["width"])


class AspectGroupedOrder:
    """Endless training order in which each batch has one orientation.

    `order[i]` is the index in the source of example i, counted from the start of training. Each
    epoch is shuffled anew. Landscape and portrait images wait separately until they fill a batch,
    so the last ones of an epoch may come in the next one. Pass it to `make_loader` as `order`. It
    can be pickled.

    Args:
      source: records. Each is read here for its orientation.
      batch_size: of all processes together.
      seed: of the order.

    Raises:
      ValueError: a record cannot be read. The processes of a run might otherwise disagree about
        its orientation.
    """

    def __init__(self, source: Sequence[Mapping[str, Any]], batch_size: int, seed: int):
        logger.info("reading the orientation of %d images", len(source))
        self.portrait = np.array(
            [self._read_orientation(source, index) for index in range(len(source))], bool
        )
        self._batch_size, self._seed = batch_size, seed
        self._start()

    @staticmethod
    def _read_orientation(source: Sequence[Mapping[str, Any]], index: int) -> bool:
        try:
            return is_portrait(source[index])
        except Exception as error:
            raise ValueError(
                f"image {index} of the training data cannot be read ({error}); "
                "data.by_orientation needs the height and width of each: prepare the data again, "
                "or set config.data.by_orientation=False"
            ) from error

    def __getitem__(self, example: int) -> int:
        batch, row = divmod(int(example), self._batch_size)
        with self._lock:
            while batch >= self._ends[-1]:
                self._draw_epoch()
        epoch = int(np.searchsorted(self._ends, batch, side="right")) - 1
        return int(self._epochs[epoch][batch - self._ends[epoch], row])

    def __len__(self) -> int:
        return ENDLESS // self._batch_size * self._batch_size

    def _start(self) -> None:
        self._lock, self._epochs, self._ends = threading.Lock(), [], [0]
        # Images of each group that wait for a batch: landscape, portrait
        self._waiting = [np.zeros(0, np.int64), np.zeros(0, np.int64)]

    def _draw_epoch(self) -> None:
        """Shuffles the images of the next epoch and forms its batches."""
        count, size = len(self.portrait), self._batch_size
        order = np.random.default_rng((self._seed, len(self._epochs))).permutation(count)
        batches, ready = [], []
        for portrait in (False, True):
            # Positions in this epoch's order at which images of the group appear
            positions = np.flatnonzero(self.portrait[order] == portrait)
            before = self._waiting[portrait]
            images = np.concatenate([before, order[positions]])
            full = len(images) // size
            batches.append(images[: full * size].reshape(full, size))
            # A batch is ready when its last image appears.
            ready.append(positions[np.arange(1, full + 1) * size - 1 - len(before)])
            self._waiting[portrait] = images[full * size :]
        by_time = np.argsort(np.concatenate(ready), kind="stable")
        self._epochs.append(np.concatenate(batches)[by_time])
        self._ends.append(self._ends[-1] + len(by_time))

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in ("portrait", "_batch_size", "_seed")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


class AspectGroupedExample:
    """Callable (record, rng) -> example, with one example function per orientation.

    It is an ``example_fn`` of `make_loader`.

    Args:
      landscape: example function for images that are not taller than wide.
      portrait: example function for images that are taller than wide.
      order: orientation of each image of the source, for placeholders of broken ones.
    """

    def __init__(self, landscape: Any, portrait: Any, order: AspectGroupedOrder):
        self._examples, self._order = (landscape, portrait), order

    def __call__(
        self, record: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Makes the example of a record. Raises like the example functions."""
        return self._examples[is_portrait(record)](record, rng)

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns a landscape example of weight 0."""
        return self._examples[0].placeholder()

    def placeholder_at(self, position: int) -> dict[str, np.ndarray]:
        """Returns an example of weight 0 with the orientation of an image of the source."""
        return self._examples[bool(self._order.portrait[position])].placeholder()
