"""Synthetic scenes as a data source, so that they can be written to disk like any dataset."""

import pathlib
from collections.abc import Iterator

from segjax.data.records import Record
from segjax.data.sources.raw import SkipCounts, check_split
from segjax.data.synthetic.captions import CaptionedScenes
from segjax.data.synthetic.kinds import get_scene_class


class SyntheticSource:
    """Reader that generates synthetic scenes. It has no raw folder.

    Args:
      raw_dir: None.
      count: images per split.
      size: side of the images in pixels.
      seed: other seeds give other scenes.
      difficulty: see `segjax.data.synthetic.scenes.DIFFICULTIES`.
      kind: "shapes", "figures" or "captions".

    Raises:
      ValueError: a raw folder is given, or an unknown kind.
    """

    splits = ("train", "heldout")
    has_objects = True

    def __init__(
        self,
        raw_dir: str | pathlib.Path | None = None,
        *,
        count: int = 1000,
        size: int = 128,
        seed: int = 0,
        difficulty: str = "easy",
        kind: str = "shapes",
    ):
        if raw_dir is not None:
            raise ValueError(
                f"synthetic scenes are made from a seed and read no folder, got {raw_dir}; "
                "leave it out"
            )
        self.count, self._scenes = count, get_scene_class(kind)
        self.categories, self.keypoint_names = self._scenes.categories, self._scenes.keypoint_names
        self.category_ids, self.keypoints = self._scenes.category_ids, len(self.keypoint_names)
        self.optional = ("keypoints",) if self.keypoints else ()
        if issubclass(self._scenes, CaptionedScenes):
            self.optional = ("phrases",)
        self._options = {"size": size, "seed": seed, "difficulty": difficulty}

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the scenes of a split by index, see `RawSource.records`."""
        check_split(split, self.splits, "the synthetic source")
        scenes = self._scenes(split, self.count, **self._options)
        yield from (scenes[index] for index in range(len(scenes)))
