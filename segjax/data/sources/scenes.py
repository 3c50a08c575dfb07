"""The synthetic scenes as a raw source, so that they can be written to disk like any other data set."""

import pathlib
from collections.abc import Iterator

from segjax.data.records import Record
from segjax.data.shapes import SHAPES
from segjax.data.sources.raw import Skipped, check_split
from segjax.data.synthetic import SyntheticScenes


class Scenes:
    """Synthetic scenes of `count` images a split; needs no raw folder."""

    splits = ("train", "heldout")
    categories = SHAPES
    category_ids = tuple(range(len(SHAPES)))
    optional: tuple[str, ...] = ()
    keypoints = 0
    has_objects = True

    def __init__(
        self,
        raw_dir: str | pathlib.Path | None = None,
        *,
        count: int = 1000,
        size: int = 128,
        seed: int = 0,
        difficulty: str = "easy",
    ):
        if raw_dir is not None:
            raise ValueError(f"synthetic scenes are made from a seed and read no folder, got {raw_dir}; leave it out")
        self.count = count
        self._options = {"size": size, "seed": seed, "difficulty": difficulty}

    def records(self, split: str, skipped: Skipped) -> Iterator[Record]:
        """The scenes of a split, by index."""
        check_split(split, self.splits, "the synthetic source")
        scenes = SyntheticScenes(split, self.count, **self._options)
        yield from (scenes[index] for index in range(len(scenes)))
