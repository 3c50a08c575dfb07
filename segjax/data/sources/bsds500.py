"""BSDS500 (Arbelaez et al., 2011): every annotator's regions become masks, so whole and part are both there.

  <raw>/images/<split>/<id>.jpg  with  <raw>/groundTruth/<split>/<id>.mat  (in Berkeley's archive under data/)

The licence is research use only.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.io

from segjax.data.records import Record, stack_objects
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    build_objects_from_map,
    check_split,
    list_images,
    read_image,
    require_folder,
    split_sort_key,
)


class Bsds500:
    """Raw source of BSDS500. Object ids count through an image's annotators; `annotator` says whose region it is."""

    categories = ("region",)
    category_ids = (0,)
    optional = ("annotator",)
    keypoints = 0
    has_objects = True

    def __init__(self, raw_dir: str | pathlib.Path):
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
        """Records of a split, by file name. Broken pictures and annotations are skipped and counted."""
        check_split(split, self.splits, self.raw_dir)
        for path in list_images(self.raw_dir / "images" / split):
            try:
                yield self._record(
                    path, self.raw_dir / "groundTruth" / split / f"{path.stem}.mat", skipped
                )
            except UnusableError as error:
                skipped.add_image(error.reason, str(error))

    def _record(self, path: pathlib.Path, truth: pathlib.Path, skipped: SkipCounts) -> Record:
        image, height, width = read_image(path)
        rows: list[dict[str, Any]] = []
        for annotator, regions in enumerate(read_segmentations(truth)):
            if regions.shape != (height, width):
                found = " x ".join(map(str, regions.shape))
                skipped.add_object(
                    "region map is of another size than its image",
                    f"{truth}, annotator {annotator} ({found} for an image of {height} x {width})",
                )
                continue
            rows += build_objects_from_map(regions, annotator=annotator)
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


def read_segmentations(path: pathlib.Path) -> list[np.ndarray]:
    """Region maps int [H, W] with values 1..n, one per annotator. Raises UnusableError for a missing or foreign file."""
    if not path.is_file():
        raise UnusableError("ground truth file is missing", str(path))
    try:
        truth = scipy.io.loadmat(path)["groundTruth"]
        return [np.asarray(cell["Segmentation"][0, 0]) for cell in truth.ravel()]
    except (
        Exception
    ) as error:  # SciPy raises anything from TypeError to zlib.error for broken files.
        raise UnusableError("ground truth file is not BSDS500's", f"{path} ({error})") from error
