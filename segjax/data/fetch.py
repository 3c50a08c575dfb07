"""Fetching single examples: records from a source, through a cache, into training examples."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from segjax.data.broken import BrokenRecords


class SettingsError(ValueError):
    """Error of an example function for an intact record that contradicts its settings.

    It ends loading, unlike errors of broken records.
    """


class ExampleFetcher:
    """Callable (index, rng) -> example of a source, with a cache of its records.

    If a record raises an error, a placeholder of weight 0 replaces it. It can be pickled. The
    cache is not copied.

    Args:
      source: random access by index.
      example_fn: see `segjax.data.loader.make_loader`.
      cache_bytes: memory of the cache.
      broken: log of the records that raise.
    """

    def __init__(
        self,
        source: Sequence[Mapping],
        example_fn: Callable,
        cache_bytes: float,
        broken: BrokenRecords,
    ):
        self.source, self.example_fn = source, example_fn
        self.cache_bytes, self.broken = cache_bytes, broken
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

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        index = int(index)
        # Padding of the last batch in evaluation
        if index >= len(self.source):
            return self.example_fn.placeholder() | {"index": np.int64(-1)}
        record = None
        try:
            record = self._read_record(index)
            example = self.example_fn(record, rng)
            self.broken.count_read()
        # Every record would fail like this one: the user must change the settings.
        except SettingsError:
            raise
        except Exception as error:
            self.broken.count_broken(
                index, record and record.get("image_id"), error, len(self.source)
            )
            # Shapes may depend on the image, and must be those of its batch.
            placeholder_at = getattr(self.example_fn, "placeholder_at", None)
            example = placeholder_at(index) if placeholder_at else self.example_fn.placeholder()
        return example | {"index": np.int64(index)}

    def _read_record(self, index: int) -> Mapping:
        record = self._cache.get(index)
        if record is None:
            record = self.source[index]
            size = _count_bytes(record)
            with self._lock:
                # Another thread may have read the same record.
                if index not in self._cache and self._cached_bytes + size <= self.cache_bytes:
                    self._cache[index] = record
                    self._cached_bytes += size
        return record


def _count_bytes(value: object) -> int:
    """Estimates the memory of a record: its arrays and strings, and 100 bytes for each object."""
    if isinstance(value, Mapping):
        return sum(_count_bytes(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return sum(_count_bytes(entry) for entry in value)
    if isinstance(value, np.ndarray):
        return 100 + value.nbytes
    return 100 + (len(value) if isinstance(value, str | bytes) else 0)
