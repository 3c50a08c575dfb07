"""Cityscapes (Cordts et al. 2016): street scenes of 2048 x 1024 pixels, eight instance classes.

  <raw>/leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png
  <raw>/gtFine/<split>/<city>/<frame>_gtFine_instanceIds.png   (16 bits)

A pixel of an object is class * 1000 + instance. A pixel of a group whose members are not told apart
is the class alone, and the group becomes a crowd. Classes are the "id" (not the "trainId") of
labels.py in cityscapesScripts.
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from segjax.data.records import Record, stack_objects
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    check_split,
    require_folder,
    split_sort_key,
)
from segjax.data.sources.read_files import build_region, check_size, read_image, read_label_map
from segjax.masks import encode_label_map

THINGS = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_IMAGE_SUFFIX, _MAP_SUFFIX = "_leftImg8bit.png", "_gtFine_instanceIds.png"


class Cityscapes:
    """Reader of the fine annotations of Cityscapes.

    The test split is left out, because its published maps are empty.

    Args:
      raw_dir: folder that holds gtFine/ and leftImg8bit/.

    Raises:
      FileNotFoundError: there are no fine annotations.
    """

    categories = tuple(THINGS.values())
    category_ids = tuple(THINGS)
    optional: tuple[str, ...] = ()
    keypoints = 0
    has_objects = True

    def __init__(self, raw_dir: str | pathlib.Path):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        annotations = require_folder(self.raw_dir / "gtFine", "Cityscapes' fine annotations")
        names = [path.name for path in annotations.iterdir() if path.is_dir()]
        self.splits = tuple(sorted(set(names) - {"test"}, key=split_sort_key))
        if not self.splits:
            raise FileNotFoundError(
                f"{annotations} has no split (train, val); expected "
                f"gtFine/<split>/<city>/*{_MAP_SUFFIX}"
            )

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the records of a split, sorted by city and frame, see `RawSource.records`."""
        check_split(split, self.splits, self.raw_dir)
        for path in sorted((self.raw_dir / "gtFine" / split).glob(f"*/*{_MAP_SUFFIX}")):
            try:
                yield self._read_record(path, split, skipped)
            except UnusableError as error:
                skipped.add_image(error.reason, str(error))

    def _read_record(self, path: pathlib.Path, split: str, skipped: SkipCounts) -> Record:
        frame = path.name.removesuffix(_MAP_SUFFIX)
        labels = read_label_map(path, "instance map")
        image, height, width = read_image(
            self.raw_dir / "leftImg8bit" / split / path.parent.name / f"{frame}{_IMAGE_SUFFIX}",
            annotated_size=labels.shape,
            counts=skipped,
        )
        check_size(labels, height, width, "instance map", path)
        objects = stack_objects(build_objects_from_instance_ids(labels))
        return {
            "image": image,
            "image_id": frame,
            "height": height,
            "width": width,
            "objects": objects,
        }


def build_objects_from_instance_ids(labels: np.ndarray) -> list[dict]:
    """Builds the objects of an instance map int [H, W], see the module for its values."""
    category = {identity: index for index, identity in enumerate(THINGS)}
    rows = []
    for region in encode_label_map(labels):
        # Values below 1000 are a class: a group of objects that are not told apart.
        is_group = region.value < 1000
        identity = region.value if is_group else region.value // 1000
        if identity in category:
            rows.append(build_region(region, category[identity], crowd=is_group))
    return rows
