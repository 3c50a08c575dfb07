"""Batches from a random-access source: seeded, sharded by process, resumable from a count of examples (grain).

The order of examples and their random augmentation depend on the seed and the global position alone. What a
checkpoint needs to keep is therefore one number, the examples consumed so far by all processes together; a run may go
on with another number of processes, workers or threads.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

_LOG = logging.getLogger(__name__)
_BROKEN_IN_A_ROW = 16  # so many different records breaking one after another is no accident of single files

_ENDLESS = 2**48  # examples; grain's own endless repeat overflows in batches of one (it divides as floats)


class SettingsError(ValueError):
    """Raised by an ``example_fn`` for a whole record that does not fit its settings: loading ends with it."""


class Loader(Iterator):
    """Iterator of batches: dicts of stacked arrays [rows, ...]. Close it (or use ``with``) to end its workers."""

    def __init__(self, batches: grain.IterDataset):
        self._alive = [iter(batches)]
        # Closes at the latest before the interpreter takes modules apart; grain's own destructor fails after that.
        self._finalizer = weakref.finalize(self, _close_all, self._alive)

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._alive:
            raise StopIteration
        batch = next(self._alive[0])
        # Workers hand arrays over in shared memory that lives as long as the array; copies free it at once.
        return {
            name: array if type(array) is np.ndarray else np.array(array, subok=False) for name, array in batch.items()
        }

    def close(self) -> None:
        """Stops workers and threads; the loader is then exhausted. Closing twice does nothing."""
        self._finalizer()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


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
) -> Loader:
    """Batches of ``example_fn(source[i], rng)``; step k's rows of all processes, in order, are one process's batch k.

    Each example gets an ``index`` int64, its position in the source (-1 for padding). A record that raises becomes a
    placeholder (``example_fn.placeholder()``, of weight 0) and one logged warning; but a `SettingsError` goes through.

    Args:
      source: random access by position; picklable if ``workers``.
      example_fn: has a method ``placeholder() -> example``; picklable if ``workers``.
      batch_size: examples in a batch over all processes; a multiple of ``process_count``.
      seed: of the order and of the augmentation.
      train: True: shuffled anew each epoch, without end. False: in order, once, the last batch padded with
        placeholders, so that every process sees the same number of batches.
      start: examples already consumed, by all processes together.
      process_index, process_count: this process's place.
      workers: processes that load; 0: threads of this process do.
      threads: threads of this process, or of each worker; 0 loads on demand.
      cache_mb: memory, over all workers, to keep records in; when it is full, later records are read again each time.

    Raises:
      ValueError: an empty source, or numbers that do not fit together.
    """
    _check(source, example_fn, batch_size, start, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0 .. 2**32 - 1, got {seed}")
    fetch = _Fetch(source, example_fn, cache_mb * 2**20 / max(1, workers))
    if train:
        positions = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(_ENDLESS // len(source))
    else:
        positions = grain.MapDataset.range(-(-len(source) // batch_size) * batch_size).seed(seed)
    examples = positions.random_map(fetch)[start:]
    rows = examples.batch(batch_size // process_count, batch_fn=_stack)[process_index::process_count]
    batches = rows.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if workers:
        _parse_flags()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    return Loader(batches)


class _Fetch:
    """Position -> example, through the cache of records, with placeholders for what breaks."""

    def __init__(self, source: Sequence[Mapping], example_fn: Callable, cache_bytes: float):
        self.source, self.example_fn, self.cache_bytes = source, example_fn, cache_bytes
        self._start()

    def _start(self) -> None:
        self._cache, self._cached_bytes, self._lock = {}, 0, threading.Lock()
        self._warned, self._broken_in_a_row = set(), set()

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in ("source", "example_fn", "cache_bytes")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start()

    def __call__(self, position: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        position = int(position)
        if position >= len(self.source):
            return self.example_fn.placeholder() | {"index": np.int64(-1)}
        try:
            example = self.example_fn(self._record(position), rng)
            self._broken_in_a_row.clear()
        except SettingsError:
            raise
        except Exception as error:
            self._report(position, error)
            example = self.example_fn.placeholder()
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

    def _report(self, position: int, error: Exception) -> None:
        with self._lock:
            self._broken_in_a_row.add(position)
            if len(self._broken_in_a_row) >= min(_BROKEN_IN_A_ROW, len(self.source)):
                raise RuntimeError(
                    f"{len(self._broken_in_a_row)} records broke one after another, the last at position {position}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            if position not in self._warned:
                self._warned.add(position)
                _LOG.warning(
                    "record %d is broken and counts for nothing: %s: %s",
                    position,
                    type(error).__name__,
                    error,
                )


def _stack(examples: Sequence[dict]) -> dict[str, np.ndarray]:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _bytes_of(value: object) -> int:
    """Memory of a record's arrays and strings; 100 bytes for any other thing in it."""
    if isinstance(value, Mapping):
        return sum(_bytes_of(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes_of(entry) for entry in value)
    return 100 + (
        value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, str | bytes) else 0
    )


def _parse_flags() -> None:
    """grain's workers read absl flags, which a notebook or plain script never parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _check(source, example_fn, batch_size: int, start: int, process_index: int, process_count: int) -> None:
    if len(source) == 0:
        raise ValueError("the source is empty: there is nothing to load")
    if not hasattr(example_fn, "placeholder"):
        raise TypeError(f"example_fn {example_fn!r} needs a method placeholder() that returns an example of weight 0")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not one of {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} cannot be split over {process_count} processes: use a multiple of it"
        )
    if start < 0:
        raise ValueError(f"start is the number of examples consumed so far, got {start}")
