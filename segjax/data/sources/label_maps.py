"""Folders of label maps, and the layout of Kaggle's Data Science Bowl 2018 (nuclei).

  <raw>/[<split>/]images/<id>.png   with  labels/<id>.png: 0 background, each other value one object
  <raw>/[<split>/]<id>.tif           with  <id>_masks.tif beside it, such maps, as in Cellpose
  <raw>/[<split>/]<id>/images/*.png  with  <id>/masks/*.png: one file per object, non-zero inside

The third is Kaggle's layout. labels/ may be called masks/, and a map may have the name of its image
with _masks, _mask, _labels or _label. Maps are PNG, TIFF (8 to 64 bits, or floats that are whole
numbers), BMP or GIF. Without split folders, the only split is "train".
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from segjax.data.records import Record, stack_objects
from segjax.data.sources.maps.layouts import (
    MapFinder,
    MapFolder,
    find_map_folder,
    list_map_images,
)
from segjax.data.sources.maps.objects import read_map_objects
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
      components: the maps are masks without objects, such as 0 and 255. Each separate part of the
        pixels from half of the largest value on is one object.
      upright: turn images with an EXIF orientation also where the size of the map does not tell.
      bands: numbers from 1 of the channels to read, such as (3, 2, 1), for images with more than
        three.

    Raises:
      FileNotFoundError: the folder has none of the layouts.
    """

    category_ids = (0,)
    optional: tuple[str, ...] = ()
    keypoints = 0
    has_objects = True

    def __init__(
        self,
        raw_dir: str | pathlib.Path,
        *,
        category: str = "object",
        components: bool = False,
        upright: bool = False,
        bands: Sequence[int] | None = None,
    ):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        self.categories = (category,)
        self._components = components
        self._image_options = {"upright": upright, "bands": bands}
        self._folders = _find_split_folders(self.raw_dir)
        self.splits = tuple(self._folders)

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the records of a split, sorted by file name, see `RawSource.records`."""
        check_split(split, self.splits, self.raw_dir)
        where = self._folders[split]
        finder = MapFinder(where) if isinstance(where, MapFolder) else None
        for item in list_map_images(where) if finder else _list_kaggle_items(where):
            try:
                if finder:
                    yield self._read_map_record(item, finder, skipped)
                else:
                    yield self._read_kaggle_record(item, skipped)
            except UnusableError as error:
                skipped.add_image(error.reason, str(error))
        if finder:
            finder.report_unused(skipped)

    def _read_map_record(
        self, path: pathlib.Path, finder: MapFinder, skipped: SkipCounts
    ) -> Record:
        labels_path = finder.find(path)
        labels = read_label_map(labels_path, "label map")
        image, height, width = self._read_image(path, labels.shape, skipped)
        check_size(labels, height, width, "label map", labels_path)
        rows = read_map_objects(labels, self._components, str(labels_path), skipped)
        return _make_record(path.stem, image, height, width, rows)

    def _read_kaggle_record(self, folder: pathlib.Path, skipped: SkipCounts) -> Record:
        images = list_images(folder / "images")
        # Kaggle keeps one image per folder.
        if len(images) != 1:
            raise UnusableError(
                "not one image in the images folder", f"{folder / 'images'} ({len(images)} images)"
            )
        # A broken mask file costs one object, not the image.
        masks, sizes = [], set()
        for path in list_images(folder / "masks"):
            try:
                masks.append((path, read_label_map(path, "mask file")))
                sizes.add(masks[-1][1].shape)
            except UnusableError as error:
                skipped.add_object(error.reason, str(error))
        size = sizes.pop() if len(sizes) == 1 else None
        image, height, width = self._read_image(images[0], size, skipped)
        rows = []
        for path, values in masks:
            try:
                check_size(values, height, width, "mask file", path)
                if not values.any():
                    raise UnusableError("mask is empty", str(path))
                rows.append(build_object(values != 0, len(rows) + 1))
            except UnusableError as error:
                skipped.add_object(error.reason, str(error))
                continue
            if ((values != 0) & (values != values.max())).any():
                reason = "mask file has several gray values: all above 0 are inside"
                skipped.add_warning(reason, str(path))
        return _make_record(folder.name, image, height, width, rows)

    def _read_image(
        self, path: pathlib.Path, annotated_size: tuple[int, int] | None, skipped: SkipCounts
    ) -> tuple[bytes, int, int]:
        return read_image(
            path, annotated_size=annotated_size, counts=skipped, **self._image_options
        )


def open_nuclei(
    raw_dir: str | pathlib.Path,
    *,
    category: str = "nucleus",
    components: bool = False,
    upright: bool = False,
    bands: Sequence[int] | None = None,
) -> LabelMaps:
    """Opens the Data Science Bowl 2018. Arguments and errors are those of `LabelMaps`."""
    return LabelMaps(
        raw_dir, category=category, components=components, upright=upright, bands=bands
    )


def _list_kaggle_items(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path.parent for path in folder.glob("*/masks") if (path.parent / "images").is_dir()
    )


def _find_split(folder: pathlib.Path) -> MapFolder | pathlib.Path | None:
    """Returns the folders of label maps, a folder in Kaggle's layout, or None."""
    return find_map_folder(folder) or (folder if _list_kaggle_items(folder) else None)


def _find_split_folders(raw_dir: pathlib.Path) -> dict[str, MapFolder | pathlib.Path]:
    """Maps splits to their folders, training first."""
    if (where := _find_split(raw_dir)) is not None:
        return {"train": where}
    folders = sorted(
        (path for path in raw_dir.iterdir() if path.is_dir()),
        key=lambda path: split_sort_key(path.name),
    )
    found = {to_split_name(path.name): _find_split(path) for path in folders}
    found = {name: where for name, where in found.items() if where is not None}
    if not found:
        raise FileNotFoundError(
            f"no label maps under {raw_dir}: expected [<split>/]images/ beside labels/, "
            "<id>.png beside <id>_masks.png, or Kaggle's [<split>/]<id>/images/ beside "
            f"<id>/masks/; it holds {[path.name for path in folders][:5]}"
        )
    return found


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
