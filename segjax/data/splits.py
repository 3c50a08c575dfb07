"""Which records an experiment reads: a prepared folder, or scenes made on the spot."""

from collections.abc import Mapping, Sequence
from typing import Any

from segjax.data.builder import open_source, read_info
from segjax.data.shapes import SHAPES
from segjax.data.synthetic import SyntheticScenes

SYNTHETIC = "synthetic"


def open_split(data: Mapping[str, Any], role: str):
    """The source of records for a role.

    Args:
      data: `source`: a folder written by `segjax prepare`, or "synthetic". With a folder, `train_split` and
        `eval_split` name its splits. With "synthetic", `scenes` holds `train_count`, `eval_count`, `size`,
        `difficulty` and `seed`; the scenes for evaluation are made of photographs that the training scenes never show.
      role: "train" or "eval".

    Raises:
      ValueError: unknown role, or a source that is neither; open_source's errors for a folder that is not whole.
    """
    if role not in ("train", "eval"):
        raise ValueError(f"role {role!r} is unknown; a split is opened to 'train' or to 'eval'")
    if data["source"] != SYNTHETIC:
        return open_source(data["source"], data[f"{role}_split"])
    scenes = data["scenes"]
    split = "train" if role == "train" else "heldout"
    return SyntheticScenes(
        split, scenes[f"{role}_count"], size=scenes["size"], seed=scenes["seed"], difficulty=scenes["difficulty"]
    )


def categories_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes 0..K-1 of a source, as `open_split` opens it."""
    return SHAPES if data["source"] == SYNTHETIC else read_info(data["source"]).categories


class First:
    """The first `count` records of a source."""

    def __init__(self, source: Sequence, count: int):
        self.source, self.count = source, min(count, len(source))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.source[index]


class Spread(First):
    """`count` records of a source, evenly spread over it: sources are often sorted by class."""

    def __getitem__(self, index: int) -> Any:
        return self.source[index * len(self.source) // self.count]
