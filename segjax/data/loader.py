"""Batches from a random-access source: shuffled, sharded by process and resumable (grain).

The order of examples and their augmentation depend only on the seed and the global position. A
checkpoint therefore stores one number, the examples that all processes have consumed. A run may
continue with another number of processes, workers or threads.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

from segjax.data.broken import BrokenRecords
from segjax.data.fetch import ExampleFetcher

# Examples that a worker makes at a time, about. A batch of thousands would keep one worker busy for
# many seconds. Shared memory would also hold more than one such batch per worker.
_PIECE = 32
# Examples of an endless order. grain's own endless repeat overflows for batches of one.
ENDLESS = 2**48


class Loader(Iterator):
    """Iterator of batches, which are dicts of arrays [rows, ...]. Close it, or use ``with``."""

    def __init__(self, pieces: grain.IterDataset, per_batch: int):
        self._alive, self._per_batch = [iter(pieces)], per_batch
        # Closes before the interpreter removes modules. grain's own destructor fails after that.
        self._finalizer = weakref.finalize(self, _close_all, self._alive)

    def __next__(self) -> dict[str, np.ndarray]:
        if not self._alive:
            raise StopIteration
        pieces = [next(self._alive[0]) for _ in range(self._per_batch)]
        # Workers pass arrays in shared memory, which lives as long as the array. Joining copies
        # them, and so frees it.
        return {name: _join([piece[name] for piece in pieces]) for name in pieces[0]}

    def close(self) -> None:
        """Stops workers and threads. The loader is then exhausted. Closing twice does nothing."""
        self._finalizer()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _join(parts: list[np.ndarray]) -> np.ndarray:
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
    """Makes an iterator of batches of ``example_fn(source[i], rng)``.

    Row by row, batch k of all processes together is batch k of a single process. Each example gets
    an ``index``, int64: its index in the source, or -1 for padding.

    If a record raises an error, a placeholder of weight 0 replaces it, so that all processes stay
    in step. A `SettingsError` is raised instead.

    Example:
      >>> from segjax.data.examples.promptable import PromptableExample
      >>> from segjax.data.synthetic.scenes import SyntheticScenes
      >>> example_fn = PromptableExample(canvas=64, max_prompts=4)
      >>> scenes = SyntheticScenes("train", count=8, size=64)
      >>> with make_loader(scenes, example_fn, batch_size=2) as loader:
      ...     next(loader)["image"].shape
      (2, 64, 64, 3)

    Args:
      source: random access by index. With `workers` it must be picklable.
      example_fn: has a method ``placeholder()``, which returns an example of weight 0. If these
        differ, it also has ``placeholder_at(index)``. With `workers` it must be picklable.
      batch_size: examples per batch over all processes, and a multiple of `process_count`.
      seed: of the order and of the augmentation, 0 .. 2**32 - 1.
      train: True shuffles each epoch anew, without end. False reads the source once, in order.
        The last batch is then padded with placeholders, so that every process sees the same
        number of batches.
      start: examples that all processes together have consumed.
      process_index: index of this process.
      process_count: number of processes.
      workers: number of worker processes. 0 loads in threads of this process.
      threads: threads of this process, or of each worker. 0 loads on demand.
      cache_mb: memory for decoded records, over all workers, in MB. When it is full, further
        records are read again each time.
      max_broken: largest share of examples that may raise, see `BrokenRecords`.
      broken_folder: folder of the files that name broken records, see `BrokenRecords`.
      order: another training order, see `AspectGroupedOrder`, nearly as long as `ENDLESS`.

    Raises:
      ValueError: an empty source, or numbers that do not fit together. The iterator raises
        BrokenDataError, a ValueError too, if too many records are broken.
    """
    _check_arguments(source, example_fn, batch_size, start, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0 .. 2**32 - 1, got {seed}")
    broken = BrokenRecords(broken_folder, process_index, max_broken)
    fetch = ExampleFetcher(source, example_fn, cache_mb * 2**20 / max(1, workers), broken)
    # Order
    if order is not None:
        indices = grain.MapDataset.source(order).seed(seed)
    elif train:
        epochs = ENDLESS // len(source)
        indices = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(epochs)
    else:
        indices = grain.MapDataset.range(-(-len(source) // batch_size) * batch_size).seed(seed)
    examples = indices.random_map(fetch)[start:]
    # Pieces of batches, which workers can make in parallel
    local = batch_size // process_count
    divisors = [size for size in range(1, local + 1) if local % size == 0]
    rows = min(divisors, key=lambda size: max(size / _PIECE, _PIECE / size))
    per_batch = local // rows
    pieces = grain.MapDataset.source(
        _Pieces(examples, rows, per_batch, process_index, process_count)
    )
    # The next batch is ready while the devices compute one.
    ahead = max(2 * threads, per_batch) if threads else 0
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
    """The rows of this process of one batch after another, `rows` at a time."""

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


def _stack(examples: Sequence[dict]) -> dict[str, np.ndarray]:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _parse_flags() -> None:
    """Marks absl flags as parsed: grain's workers read them, and notebooks never parse them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _check_arguments(
    source, example_fn, batch_size: int, start: int, process_index: int, process_count: int
) -> None:
    if len(source) == 0:
        raise ValueError("the source is empty: there is nothing to load")
    if not hasattr(example_fn, "placeholder"):
        raise TypeError(
            f"example_fn {example_fn!r} needs a method placeholder() that returns an example of "
            "weight 0"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not one of {process_count} processes")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size {batch_size} cannot be split over {process_count} processes: use a "
            "multiple of their number"
        )
    if start < 0:
        raise ValueError(f"start is the number of examples consumed so far, got {start}")
