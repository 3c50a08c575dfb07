"""Cityscapes (Cordts et al. 2016): streets in 2048 x 1024 pixels, eight classes of things.

  <raw>/leftImg8bit/<split>/<city>/<frame>_leftImg8bit.png
  <raw>/gtFine/<split>/<city>/<frame>_gtFine_instanceIds.png   (16 bits)

A pixel of an object is class * 1000 + number; one of a group in which objects were not told apart is the class alone,
and becomes a crowd. Classes are those of cityscapesScripts (labels.py): its "id", not its "trainId".
"""

import pathlib
from collections.abc import Iterator

import numpy as np

from segjax.data.records import Record, stack_objects
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    build_object,
    check_size,
    check_split,
    read_image,
    read_label_map,
    require_folder,
    split_sort_key,
)

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
_PICTURE, _MAP = "_leftImg8bit.png", "_gtFine_instanceIds.png"


class Cityscapes:
    """Raw source of Cityscapes' fine annotations. The test split, whose maps are empty, is left out.

    Raises FileNotFoundError when there are none.
    """

    categories = tuple(THINGS.values())
    category_ids = tuple(THINGS)
    optional: tuple[str, ...] = ()
    keypoints = 0
    has_objects = True

    def __init__(self, raw_dir: str | pathlib.Path):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        truth = require_folder(self.raw_dir / "gtFine", "Cityscapes' fine annotations")
        names = (path.name for path in truth.iterdir() if path.is_dir() and path.name != "test")
        self.splits = tuple(sorted(names, key=split_sort_key))
        if not self.splits:
            raise FileNotFoundError(
                f"{truth} has no split (train, val); expected gtFine/<split>/<city>/*{_MAP}"
            )

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Records of a split, by city and frame. Broken pictures and maps are skipped and counted."""
        check_split(split, self.splits, self.raw_dir)
        for path in sorted((self.raw_dir / "gtFine" / split).glob(f"*/*{_MAP}")):
            try:
                yield self._record(path, split)
            except UnusableError as error:
                skipped.add_image(error.reason, str(error))

    def _record(self, path: pathlib.Path, split: str) -> Record:
        frame = path.name.removesuffix(_MAP)
        image, height, width = read_image(
            self.raw_dir / "leftImg8bit" / split / path.parent.name / f"{frame}{_PICTURE}"
        )
        labels = read_label_map(path, "instance map")
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
    """The objects of an instance map int [H, W]: its values of the classes `THINGS`, as the module says."""
    labels = np.asfortranarray(labels)  # run lengths go down the columns
    category = {identity: position for position, identity in enumerate(THINGS)}
    rows = []
    for value in np.unique(labels).tolist():
        identity = value // 1000 if value >= 1000 else value
        if identity in category:
            rows.append(
                build_object(labels == value, value, category[identity], crowd=value < 1000)
            )
    return rows
