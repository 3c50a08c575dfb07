"""Batches from a random-access source: seeded, sharded by process, resumable from a count of examples (grain).

The order of examples and their random augmentation depend on the seed and the global position alone. What a
checkpoint needs to keep is therefore one number, the examples consumed so far by all processes together; a run may go
on with another number of processes, workers or threads.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

from segjax.data.broken import BrokenRecords

# Examples that a worker makes at a time, about. Whole batches of thousands would each keep one worker busy for many
# seconds, and the memory that workers share would hold one for each of them and more.
_PIECE = 32
ENDLESS = (
    2**48
)  # examples; grain's own endless repeat overflows in batches of one (it divides as floats)


class SettingsError(ValueError):
    """Raised by an ``example_fn`` for a whole record that does not fit its settings: loading ends with it."""


class Loader(Iterator):
    """Iterator of batches: dicts of stacked arrays [rows, ...]. Close it (or use ``with``) to end its workers."""

    def __init__(self, pieces: grain.IterDataset, per_batch: int):
        self._alive, self._per_batch = [iter(pieces)], per_batch
        # Closes at the latest before the interpreter takes modules apart; grain's own destructor fails after that.
        self._finalizer = weakref.finalize(self, _close_all, self._alive)

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._alive:
            raise StopIteration
        pieces = [next(self._alive[0]) for _ in range(self._per_batch)]
        # Workers hand arrays over in shared memory that lives as long as the array; joining copies and so frees them.
        return {name: _joined([piece[name] for piece in pieces]) for name in pieces[0]}

    def close(self) -> None:
        """Stops workers and threads; the loader is then exhausted. Closing twice does nothing."""
        self._finalizer()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if len(parts) == 1 and type(parts[0]) is np.ndarray:
        return parts[0]
    return np.concatenate([part.view(np.ndarray) for part in parts])


def _close_all(iterators: list) -> None:
    while iterators:
        iterators.pop().close()


def make_loader(
    source: Sequence[Mapping],
    example_fn: Callable[[Mapping, np.random.Generator], dict[str, np.ndarray]],
    *,
    batch_size: int,
    seed: int = 0,
    train: bool = True,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
    threads: int = 2,
    cache_mb: float = 0,
    max_broken: float = 0.01,
    broken_folder: str | os.PathLike | None = None,
    order: Sequence[int] | None = None,
) -> Loader:
    """Batches of ``example_fn(source[i], rng)``; step k's rows of all processes, in order, are one process's batch k.

    Each example gets an ``index`` int64, its position in the source (-1 for padding). A record that raises is passed
    over: a placeholder (``example_fn.placeholder()``, of weight 0) takes its place, so that all processes stay in step;
    but a `SettingsError` goes through.

    Args:
      source: random access by position; picklable if ``workers``.
      example_fn: has a method ``placeholder() -> example``, and where these differ ``placeholder_at(position)``;
        picklable if ``workers``.
      batch_size: examples in a batch over all processes; a multiple of ``process_count``.
      seed: of the order and of the augmentation.
      train: True: shuffled anew each epoch, without end. False: in order, once, the last batch padded with
        placeholders, so that every process sees the same number of batches.
      start: examples already consumed, by all processes together.
      process_index, process_count: this process's place.
      workers: processes that load; 0: threads of this process do.
      threads: threads of this process, or of each worker; 0 loads on demand.
      cache_mb: memory, over all workers, to keep records in; when it is full, later records are read again each time.
      max_broken: share of the examples that may raise. broken_folder: where files name them; see `BrokenRecords`.
      order: another order to train in, of positions in the source, as long as `ENDLESS` nearly; picklable.

    Raises:
      ValueError: an empty source, or numbers that do not fit together. A batch raises BrokenDataError, a ValueError
      too, when too many records are broken.
    """
    _check(source, example_fn, batch_size, start, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0 .. 2**32 - 1, got {seed}")
    broken = BrokenRecords(broken_folder, process_index, max_broken)
    fetch = _Fetch(source, example_fn, cache_mb * 2**20 / max(1, workers), broken)
    if order is not None:
        positions = grain.MapDataset.source(order).seed(seed)
    elif train:
        positions = (
            grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(ENDLESS // len(source))
        )
    else:
        positions = grain.MapDataset.range(-(-len(source) // batch_size) * batch_size).seed(seed)
    examples = positions.random_map(fetch)[start:]
    local = batch_size // process_count
    fitting = [size for size in range(1, local + 1) if local % size == 0]
    rows = min(fitting, key=lambda size: max(size / _PIECE, _PIECE / size))
    per_batch = local // rows
    pieces = grain.MapDataset.source(
        _Pieces(examples, rows, per_batch, process_index, process_count)
    )
    ahead = (
        max(2 * threads, per_batch) if threads else 0
    )  # another batch is ready while the devices compute one
    if workers:
        _parse_flags()
        pieces = pieces.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        )
        each = max(2, -(-per_batch // workers))
        pieces = pieces.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
        )
    else:
        pieces = pieces.to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        )
    return Loader(pieces, per_batch)


class _Pieces:
    """This process's rows of one batch after another, `rows` at a time."""

    def __init__(
        self,
        examples: grain.MapDataset,
        rows: int,
        per_batch: int,
        process_index: int,
        process_count: int,
    ):
        self._all = examples.batch(rows, batch_fn=_stack)
        self._per_batch, self._process, self._processes = per_batch, process_index, process_count

    def __len__(self) -> int:
        return len(self._all) // (self._per_batch * self._processes) * self._per_batch

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        batch, piece = divmod(index, self._per_batch)
        return self._all[(batch * self._processes + self._process) * self._per_batch + piece]


class _Fetch:
    """Position -> example, through the cache of records, with placeholders for what breaks."""

    def __init__(
        self,
        source: Sequence[Mapping],
        example_fn: Callable,
        cache_bytes: float,
        broken: BrokenRecords,
    ):
        self.source, self.example_fn, self.cache_bytes, self.broken = (
            source,
            example_fn,
            cache_bytes,
            broken,
        )
        self._start()

    def _start(self) -> None:
        self._cache, self._cached_bytes, self._lock = {}, 0, threading.Lock()

    def __getstate__(self) -> dict:
        return {
            name: getattr(self, name) for name in ("source", "example_fn", "cache_bytes", "broken")
        }

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    def __call__(self, position: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        position = int(position)
        if position >= len(self.source):
            return self.example_fn.placeholder() | {"index": np.int64(-1)}
        record = None
        try:
            record = self._record(position)
            example = self.example_fn(record, rng)
            self.broken.count_read()
        except SettingsError:
            raise
        except Exception as error:
            self.broken.count_broken(position, record and record.get("image_id"), error, len(self.source))
            at = getattr(self.example_fn, "placeholder_at", None)
            example = at(position) if at else self.example_fn.placeholder()
        return example | {"index": np.int64(position)}

    def _record(self, position: int) -> Mapping:
        record = self._cache.get(position)
        if record is None:
            record = self.source[position]
            size = _bytes_of(record)
            with self._lock:
                if position not in self._cache and self._cached_bytes + size <= self.cache_bytes:
                    self._cache[position] = record
                    self._cached_bytes += size
        return record


def _stack(examples: Sequence[dict]) -> dict[str, np.ndarray]:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _bytes_of(value: object) -> int:
    """Memory of a record's arrays and strings; 100 bytes for any other thing in it."""
    if isinstance(value, Mapping):
        return sum(_bytes_of(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes_of(entry) for entry in value)
    return 100 + (
        value.nbytes
        if isinstance(value, np.ndarray)
        else len(value)
        if isinstance(value, str | bytes)
        else 0
    )


def _parse_flags() -> None:
    """grain's workers read absl flags, which a notebook or plain script never parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _check(
    source, example_fn, batch_size: int, start: int, process_index: int, process_count: int
) -> None:
    if len(source) == 0:
        raise ValueError("the source is empty: there is nothing to load")
    if not hasattr(example_fn, "placeholder"):
        raise TypeError(
            f"example_fn {example_fn!r} needs a method placeholder() that returns an example of weight 0"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not one of {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} cannot be split over {process_count} processes: use a multiple of it"
        )
    if start < 0:
        raise ValueError(f"start is the number of examples consumed so far, got {start}")
