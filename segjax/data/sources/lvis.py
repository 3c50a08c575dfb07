"""LVIS (Gupta et al. 2019): COCO's photographs with masks of about 1,200 categories.

Not every category was looked for in every image. Annotations are
<raw>/[annotations/]lvis*<split>.json, such as lvis_v1_train.json. Photographs lie in COCO's
folders, at the end of each image's coco_url: <raw>/[images/]train2017/000000391895.jpg. Those of
lvis_v1_val come from train2017 and val2017.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from segjax.data.records import OPTIONAL_CLASS_LISTS
from segjax.data.sources.coco import CocoFolder, group_by_split
from segjax.data.sources.coco_annotations import read_annotations
from segjax.data.sources.raw import split_sort_key

# Fields of an image in the JSON
_RAW_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
_VERSION = re.compile(r"^lvis_(v[\d.]+_)?")


class LvisFolder(CocoFolder):
    """Reader of LVIS.

    There are no crowds. The fields `neg_categories` and `not_exhaustive_categories` of records
    tell which categories are surely absent, and which are not completely annotated. Arguments and
    errors are those of `CocoFolder`.
    """

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

    def _read_file(self, path: pathlib.Path) -> dict[str, Any]:
        return read_annotations(path, image_fields=("id", *_RAW_LISTS))

    def _visit_category(
        self, category: Mapping[str, Any], path: pathlib.Path, keypoints: bool
    ) -> None:
        if category.get("frequency") not in ("r", "c", "f"):
            raise ValueError(
                f"{path}: category {category['name']!r} has frequency "
                f"{category.get('frequency')!r}; LVIS's are 'r' (rare), 'c' (common) and 'f' "
                "(frequent). Is it a COCO file? Then prepare it as `coco`"
            )
        self._frequency[category["id"]] = category["frequency"]

    def _read_image_fields(self, image: Mapping[str, Any]) -> dict[str, Any]:
        index = {identity: i for i, identity in enumerate(self.category_ids)}
        return {
            field: np.array([index[identity] for identity in image[raw]], np.int32)
            for field, raw in zip(OPTIONAL_CLASS_LISTS, _RAW_LISTS, strict=True)
        }

    def _find_image(self, image: Mapping[str, Any], split: str) -> pathlib.Path:
        # Version 0.5 has a file_name, COCO_train2014_000000391895.jpg or the name alone.
        url = pathlib.PurePosixPath(
            image.get("coco_url") or image.get("file_name", f"{image['id']:012d}.jpg")
        )
        below = pathlib.Path(*url.parts[-2:])
        found = (
            folder / name
            for name in (below, url.name)
            for folder in (self.raw_dir, self.raw_dir / "images")
        )
        return next((path for path in found if path.is_file()), self.raw_dir / below)
