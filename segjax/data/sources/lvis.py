"""LVIS (Gupta et al. 2019): COCO's photographs with masks of about 1,200 categories.

Not every category was looked for in every image. Annotations are
<raw>/[annotations/]lvis*<split>.json, such as lvis_v1_train.json, or a single file whose path is
given in place of the folder. Photographs lie in COCO's folders, at the end of each image's
coco_url: <raw>/[images/]train2017/000000391895.jpg. Those of lvis_v1_val come from train2017 and
val2017.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.records import OPTIONAL_CLASS_LISTS
from segjax.data.sources.annotations.content import read_annotations
from segjax.data.sources.annotations.files import group_by_split
from segjax.data.sources.annotations.values import describe, is_list, parse_whole_number
from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.raw import SkipCounts, split_sort_key

# Fields of an image in the JSON
_RAW_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
_VERSION = re.compile(r"^lvis_(v[\d.]+_)?")


class LvisFolder(CocoFolder):
    """Reader of LVIS.

    There are no crowds. The fields `neg_categories` and `not_exhaustive_categories` of records
    tell which categories are surely absent, and which are not completely annotated. Errors are
    those of `CocoFolder`.

    Args:
      raw_dir: folder of the raw files, or one annotation file.
      outside: see `CocoFolder`.
      upright: see `CocoFolder`.
      bands: see `CocoFolder`.
    """

    optional = ("annotated_box", *OPTIONAL_CLASS_LISTS)

    def __init__(
        self,
        raw_dir: str | pathlib.Path,
        *,
        outside: bool = False,
        upright: bool = False,
        bands: Sequence[int] | None = None,
    ):
        self._frequency: dict[int, str] = {}
        super().__init__(raw_dir, outside=outside, upright=upright, bands=bands)
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

    def _name_file(self, path: pathlib.Path) -> dict[str, pathlib.Path]:
        return group_by_split([(_VERSION.sub("", path.stem), path)])

    def _read_file(self, path: pathlib.Path) -> dict[str, Any]:
        return read_annotations(path, image_fields=("id", *_RAW_LISTS))

    def _visit_category(
        self, identity: int, category: Mapping[str, Any], path: pathlib.Path, keypoints: bool
    ) -> None:
        if category.get("frequency") not in ("r", "c", "f"):
            raise ValueError(
                f"{path}: category {describe(category['name'])} has frequency "
                f"{describe(category.get('frequency'))}; LVIS's are 'r' (rare), 'c' (common) and "
                "'f' (frequent). Is it a COCO file? Then prepare it as `coco`"
            )
        self._frequency[identity] = category["frequency"]

    def _read_image_fields(self, image: Mapping[str, Any], skipped: SkipCounts) -> dict[str, Any]:
        index = {identity: i for i, identity in enumerate(self.category_ids)}
        fields = {}
        for field, raw in zip(OPTIONAL_CLASS_LISTS, _RAW_LISTS, strict=True):
            ids = image.get(raw) if is_list(image.get(raw)) else [None]
            known = [index.get(parse_whole_number(identity)) for identity in ids]
            if None in known:
                reason = f"{raw} holds something else than known categories, which is left out"
                skipped.add_change(
                    reason, f"image {describe(image['id'])}, {describe(image.get(raw))}"
                )
            fields[field] = np.array([i for i in known if i is not None], np.int32)
        return fields

    def _list_names(self, image: Mapping[str, Any]) -> Sequence[Any]:
        # Version 0.5 has a file_name, COCO_train2014_000000391895.jpg or the name alone.
        url = image.get("coco_url") or image.get("file_name")
        if not isinstance(url, str):
            number = parse_whole_number(image["id"])
            url = f"{image['id'] if number is None else format(number, '012d')}.jpg"
        below = pathlib.PurePosixPath(url).parts or (url,)
        return ("/".join(below[-2:]), below[-1])

    def _list_folders(self, annotations: pathlib.Path) -> list[pathlib.Path]:
        return [self.raw_dir, self.raw_dir / "images"]
