"""Mixtures of data sources: `config.data.source` as a list with weights.

    config.data.source = [("data/mine", 10), ("data/coco", 1, "train2017", "val2017")]

Images of data/mine are then drawn ten times as often as those of data/coco, whatever the sizes of
both. Each source is shuffled anew in each of its own epochs, so all of its images come equally
often.
"""

import ast
import bisect
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

SYNTHETIC = "synthetic"
_FORM = (
    "expected a folder, 'tfds:NAME' or 'synthetic', or a list of entries (source, weight) or "
    "(source, weight, train_split, eval_split)"
)


@dataclasses.dataclass(frozen=True)
class MixtureEntry:
    """One source of a mixture.

    Attributes:
      source: As `config.data.source` of a single source.
      weight: Relative frequency of its images in training, above 0.
      train_split: Name of its training split.
      eval_split: Name of its evaluation split.
    """

    source: str
    weight: float
    train_split: str
    eval_split: str

    def replace_in(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings of a single source: `config.data` with this entry alone."""
        splits = {"train_split": self.train_split, "eval_split": self.eval_split}
        return dict(data) | {"source": self.source} | splits


def parse_mixture(data: Mapping[str, Any]) -> list[MixtureEntry]:
    """Parses `config.data.source`. A single source is a mixture of one.

    Args:
      data: `config.data`. Entries without splits have its `train_split` and `eval_split`. Synthetic
        scenes have their own.

    Raises:
      ValueError: No source, a weight that is not positive, a source that occurs twice, or an entry
        of another form.
    """
    given = data["source"]
    if isinstance(given, str) and given.lstrip().startswith(("[", "(")):
        given = _parse_literal(given)
    if isinstance(given, str):
        return [MixtureEntry(given, 1.0, *_own_splits(data))]
    if not isinstance(given, Sequence):
        raise ValueError(f"config.data.source is {given!r}; {_FORM}")
    entries = [_parse_entry(entry, data) for entry in given]
    if not entries:
        raise ValueError(f"config.data.source is an empty list; {_FORM}")
    seen = set()
    for entry in entries:
        key = os.path.normpath(entry.source), entry.train_split  # data/a/ is data/a
        if key in seen:
            raise ValueError(
                f"config.data.source names {entry.source!r} with split {entry.train_split!r} "
                "twice; name it once, with the sum of the weights"
            )
        seen.add(key)
    return entries


def is_mixture(data: Mapping[str, Any]) -> bool:
    """Tells whether `config.data.source` names more than one source."""
    return len(parse_mixture(data)) > 1


def _own_splits(data: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the splits that `config.data` names. Synthetic scenes alone need none."""
    return data.get("train_split", "train"), data.get("eval_split", "val")


def _parse_literal(text: str) -> Any:
    """Parses a list as it is written on the command line."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"config.data.source is {text[:200]!r}; {_FORM}") from None


def _parse_entry(entry: Any, data: Mapping[str, Any]) -> MixtureEntry:
    """Parses (source, weight) or (source, weight, train_split, eval_split)."""
    valid = isinstance(entry, (list, tuple)) and len(entry) in (2, 4)
    if not valid or not isinstance(entry[0], str) or not all(isinstance(x, str) for x in entry[2:]):
        raise ValueError(f"config.data.source has the entry {entry!r}; {_FORM}")
    source, weight, *own = entry
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight <= 0:
        raise ValueError(
            f"config.data.source gives {source!r} the weight {weight!r}; expected a number above "
            "0. Leave a source out to not train on it"
        )
    if not own:
        own = ("train", "val") if source == SYNTHETIC else _own_splits(data)
    return MixtureEntry(source, float(weight), *own)


class MixedRecords(Sequence):
    """The records of several sources, one source after another.

    Training draws them in a `MixtureOrder`. It can be pickled if the sources can.

    Args:
      parts: The opened sources.
      entries: Their entries.
    """

    def __init__(self, parts: Sequence[Sequence], entries: Sequence[MixtureEntry]):
        self.parts, self.entries = list(parts), list(entries)
        self._starts = [0]
        for part in self.parts:
            self._starts.append(self._starts[-1] + len(part))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        return self.parts[number][index - self._starts[number]]

    @property
    def sizes(self) -> list[int]:
        """Number of records of each source."""
        return [len(part) for part in self.parts]


class MixtureOrder(Sequence):
    """Endless training order of `MixedRecords`: sources interleaved by weight, each shuffled.

    `order[i]` is the index of example i, computed without the examples before it. Any stretch of
    examples has each source's share, to about one example. grain rounds weights: the ratio of a
    weight to the smallest one is exact to 1 %.

    Args:
      sizes: Number of records of each source.
      weights: Relative frequency of each source.
      seed: Of the order.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int):
        # Here, because grain imports jax and opening data must not
        import grain

        from segjax.data.loader import ENDLESS

        parts, start = [], 0
        for number, size in enumerate(sizes):
            records = grain.MapDataset.range(start, start + size)
            parts.append(records.seed(seed + number).shuffle().repeat(ENDLESS // size))
            start += size
        self._order = grain.MapDataset.mix(parts, list(weights))

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, example: int) -> int:
        return int(self._order[example])
