"""BSDS500 (Arbelaez et al. 2011): the regions of every annotator become masks.

Annotators divide an image more or less finely, so wholes and their parts are both present.

  <raw>/images/<split>/<id>.jpg
  <raw>/groundTruth/<split>/<id>.mat

In Berkeley's archive both lie under data/. The license allows research only.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from segjax.data.records import Record, stack_objects
from segjax.data.sources.mat_files import MatReader
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    check_split,
    require_folder,
    split_sort_key,
)
from segjax.data.sources.read_files import build_objects_from_map, list_images, read_image


class Bsds500:
    """Reader of BSDS500.

    The field `annotator` of objects is the index of the annotator. Ids of objects are unique in
    an image, over all annotators.

    Args:
      raw_dir: folder of the raw files, or of Berkeley's archive.
      upright: turn images with an EXIF orientation also where the region maps do not tell.

    Raises:
      FileNotFoundError: the folders are missing.
    """

    categories = ("region",)
    category_ids = (0,)
    optional = ("annotator",)
    keypoints = 0
    has_objects = True

    def __init__(self, raw_dir: str | pathlib.Path, *, upright: bool = False):
        self.upright = upright
        raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        nested = [
            raw_dir / part
            for part in ("data", "BSDS500/data", "BSR/BSDS500/data")
            if (raw_dir / part).is_dir()
        ]
        self.raw_dir = nested[0] if nested else raw_dir
        images = require_folder(self.raw_dir / "images", "BSDS500's images")
        require_folder(self.raw_dir / "groundTruth", "BSDS500's groundTruth")
        self.splits = tuple(
            sorted((path.name for path in images.iterdir() if path.is_dir()), key=split_sort_key)
        )

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the records of a split, sorted by file name, see `RawSource.records`."""
        check_split(split, self.splits, self.raw_dir)
        with MatReader() as reader:
            for path in list_images(self.raw_dir / "images" / split):
                try:
                    regions = self.raw_dir / "groundTruth" / split / f"{path.stem}.mat"
                    yield self._read_record(path, regions, skipped, reader)
                except UnusableError as error:
                    skipped.add_image(error.reason, str(error))

    def _read_record(
        self,
        path: pathlib.Path,
        ground_truth: pathlib.Path,
        skipped: SkipCounts,
        reader: MatReader,
    ) -> Record:
        if not ground_truth.is_file():
            raise UnusableError("ground truth file is missing", str(ground_truth))
        maps = reader.read(ground_truth)
        image, height, width = read_image(
            path,
            annotated_size=maps[0].shape if maps else None,
            upright=self.upright,
            counts=skipped,
        )
        rows: list[dict[str, Any]] = []
        # Annotators overlap: each one covers the complete image.
        for annotator, regions in enumerate(maps):
            if regions.shape != (height, width):
                size = " x ".join(map(str, regions.shape))
                skipped.add_object(
                    "region map is of another size than its image",
                    f"{ground_truth}, annotator {annotator} ({size} for an image of "
                    f"{height} x {width})",
                )
                continue
            rows += build_objects_from_map(regions, annotator=annotator)
        # Region numbers repeat between annotators, so ids are counted through.
        objects = stack_objects(rows, self.optional) | {
            "id": np.arange(1, len(rows) + 1, dtype=np.int64)
        }
        return {
            "image": image,
            "image_id": path.stem,
            "height": height,
            "width": width,
            "objects": objects,
        }
