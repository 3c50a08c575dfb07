"""Folders of label maps, and the layout of Kaggle's Data Science Bowl 2018 (nuclei).

  <raw>/[<split>/]images/<id>.png   with  labels/<id>.png: 0 background, each other value one object
  <raw>/[<split>/]<id>/images/*.png  with  <id>/masks/*.png: one file per object, non-zero inside

The second is Kaggle's layout. Without split folders, the only split is "train".
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from segjax.data.records import Record, stack_objects
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    check_split,
    require_folder,
    split_sort_key,
    to_split_name,
)
from segjax.data.sources.read_files import (
    build_object,
    build_objects_from_map,
    check_size,
    list_images,
    read_image,
    read_label_map,
)


class LabelMaps:
    """Reader of images with label maps, or with one mask file per object.

    Args:
      raw_dir: folder of the raw files.
      category: name of the one category.

    Raises:
      FileNotFoundError: the folder has neither layout.
    """

    category_ids = (0,)
    optional: tuple[str, ...] = ()
    keypoints = 0
    has_objects = True

    def __init__(self, raw_dir: str | pathlib.Path, *, category: str = "object"):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        self.categories = (category,)
        self._folders = _find_split_folders(self.raw_dir)
        self.splits = tuple(self._folders)

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the records of a split, sorted by file name, see `RawSource.records`."""
        check_split(split, self.splits, self.raw_dir)
        folder = self._folders[split]
        if _has_maps(folder):
            items, read_record = list_images(folder / "images"), _read_map_record
        else:
            items, read_record = _list_kaggle_items(folder), _read_kaggle_record
        for item in items:
            try:
                yield read_record(item, skipped)
            except UnusableError as error:
                skipped.add_image(error.reason, str(error))


def open_nuclei(raw_dir: str | pathlib.Path, **options: Any) -> LabelMaps:
    """Opens the Data Science Bowl 2018: label maps whose one category is "nucleus"."""
    return LabelMaps(raw_dir, **({"category": "nucleus"} | options))


def _has_maps(folder: pathlib.Path) -> bool:
    return (folder / "images").is_dir() and (folder / "labels").is_dir()


def _list_kaggle_items(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path.parent for path in folder.glob("*/masks") if (path.parent / "images").is_dir()
    )


def _find_split_folders(raw_dir: pathlib.Path) -> dict[str, pathlib.Path]:
    if _has_maps(raw_dir) or _list_kaggle_items(raw_dir):
        return {"train": raw_dir}
    folders = sorted(
        (path for path in raw_dir.iterdir() if path.is_dir()),
        key=lambda path: split_sort_key(path.name),
    )
    found = {
        to_split_name(path.name): path
        for path in folders
        if _has_maps(path) or _list_kaggle_items(path)
    }
    if not found:
        raise FileNotFoundError(
            f"no label maps under {raw_dir}: expected [<split>/]images/ beside labels/, or "
            "Kaggle's [<split>/]<id>/images/ beside <id>/masks/; it holds "
            f"{[path.name for path in folders][:5]}"
        )
    return found


def _read_map_record(path: pathlib.Path, skipped: SkipCounts) -> Record:
    image, height, width = read_image(path)
    labels_path = path.parent.parent / "labels" / f"{path.stem}.png"
    labels = read_label_map(labels_path, "label map")
    check_size(labels, height, width, "label map", labels_path)
    return _make_record(path.stem, image, height, width, build_objects_from_map(labels))


def _read_kaggle_record(folder: pathlib.Path, skipped: SkipCounts) -> Record:
    images = list_images(folder / "images")
    # Kaggle keeps one image per folder.
    if len(images) != 1:
        raise UnusableError(
            "not one image in the images folder", f"{folder / 'images'} ({len(images)} images)"
        )
    image, height, width = read_image(images[0])
    rows = []
    # A broken mask file costs one object, not the image.
    for number, path in enumerate(list_images(folder / "masks"), 1):
        try:
            mask = read_label_map(path, "mask file") != 0
            check_size(mask, height, width, "mask file", path)
            if not mask.any():
                raise UnusableError("mask is empty", str(path))
            rows.append(build_object(mask, number))
        except UnusableError as error:
            skipped.add_object(error.reason, str(error))
    return _make_record(folder.name, image, height, width, rows)


def _make_record(
    image_id: str, image: bytes, height: int, width: int, rows: list[dict[str, Any]]
) -> Record:
    objects = stack_objects(rows)
    return {
        "image": image,
        "image_id": image_id,
        "height": height,
        "width": width,
        "objects": objects,
    }
