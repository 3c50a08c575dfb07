"""LVIS (Gupta et al. 2019): COCO's photographs with masks of some 1,200 classes, not all looked for in every picture.

Annotations are <raw>/[annotations/]lvis*<split>.json, as lvis_v1_train.json; photographs lie in COCO's folders, named
by the end of each image's coco_url: <raw>/[images/]train2017/000000391895.jpg (of lvis_v1_val, some in either folder).
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.data.records import OPTIONAL_CLASS_LISTS
from segjax.data.sources.coco import CocoFolder, group_by_split, read_annotations
from segjax.data.sources.raw import split_sort_key

_RAW_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")  # of an image, in the JSON
_VERSION = re.compile(r"^lvis_(v[\d.]+_)?")


class LvisFolder(CocoFolder):
    """Raw source of LVIS. There are no crowds; what was not looked for is in the records' `neg_categories` and
    `not_exhaustive_categories`. Raises as `CocoFolder`."""

    optional = ("annotated_box", *OPTIONAL_CLASS_LISTS)

    def __init__(self, raw_dir: str | pathlib.Path):
        self._frequency: dict[int, str] = {}
        super().__init__(raw_dir)
        self.frequencies = tuple(self._frequency[identity] for identity in self.category_ids)

    def _find_files(self, prefix: str) -> dict[str, pathlib.Path]:
        folders = (self.raw_dir, self.raw_dir / "annotations")
        paths = sorted(
            (path for folder in folders for path in folder.glob("lvis*.json")),
            key=lambda path: split_sort_key(path.stem),
        )
        if not paths:
            raise FileNotFoundError(f"no lvis*.json in {folders[0]} or {folders[1]}")
        return group_by_split([(_VERSION.sub("", path.stem), path) for path in paths])

    def _read(self, path: pathlib.Path) -> dict[str, Any]:
        return read_annotations(path, image_fields=("id", *_RAW_LISTS))

    def _see(self, category: Mapping[str, Any], path: pathlib.Path, keypoints: bool) -> None:
        if category.get("frequency") not in ("r", "c", "f"):
            raise ValueError(
                f"{path}: category {category['name']!r} has frequency {category.get('frequency')!r}; LVIS's are "
                "'r' (rare), 'c' (common) and 'f' (frequent). Is it a COCO file? Then prepare it as `coco`"
            )
        self._frequency[category["id"]] = category["frequency"]

    def _of_picture(self, image: Mapping[str, Any]) -> dict[str, Any]:
        index = {identity: position for position, identity in enumerate(self.category_ids)}
        return {
            field: np.array([index[identity] for identity in image[raw]], np.int32)
            for field, raw in zip(OPTIONAL_CLASS_LISTS, _RAW_LISTS, strict=True)
        }

    def _find_image(self, image: Mapping[str, Any], split: str) -> pathlib.Path:
        # Version 0.5 has a file_name, COCO_train2014_000000391895.jpg or the name alone.
        place = pathlib.PurePosixPath(
            image.get("coco_url") or image.get("file_name", f"{image['id']:012d}.jpg")
        )
        below = pathlib.Path(*place.parts[-2:])
        found = (
            folder / name
            for name in (below, place.name)
            for folder in (self.raw_dir, self.raw_dir / "images")
        )
        return next((path for path in found if path.is_file()), self.raw_dir / below)
