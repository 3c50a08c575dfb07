"""COCO-format folders (Lin et al. 2014): an annotation JSON per split and folders of images.

Annotations are <raw>/[annotations/]*.json with the lists "images", "annotations" and "categories".
A split has the name of its file without "instances_", so instances_val2017.json is val2017. If
there are files with this prefix, other JSON files (captions, keypoints) are ignored. With
keypoints=True, person_keypoints_val2017.json and its like are read instead. The path of a single
JSON file in place of the folder reads that file alone.

Images may lie in <raw>/<split>, <raw>/images/<split>, <raw>/images or <raw>. One that is not where
its name says is looked for by its name in all of <raw>.

Without such files, folders are splits, as Roboflow exports them:
<raw>/<split>/_annotations.coco.json, with the images beside it.

A malformed value costs as little as possible, and the report counts and names it.
"""

import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segjax.data.records import Record, stack_objects
from segjax.data.sources.annotations.content import read_annotations, read_categories
from segjax.data.sources.annotations.files import (
    PREFIXES,
    ROBOFLOW,
    find_annotation_files,
    group_by_split,
    open_raw_folder,
    remove_prefix,
)
from segjax.data.sources.annotations.find_images import ImageFinder
from segjax.data.sources.annotations.grouping import (
    group_by_image,
    is_lone_box,
    warn_about_corners,
)
from segjax.data.sources.annotations.objects import ObjectReader
from segjax.data.sources.annotations.values import describe, is_list, parse_whole_number
from segjax.data.sources.raw import SkipCounts, UnusableError, check_split
from segjax.data.sources.read_files import read_image


class CocoFolder:
    """Reader of a COCO-format folder.

    Args:
      raw_dir: folder of the raw files, or one annotation file.
      keypoints: read person_keypoints_<split>.json, and the keypoints of the objects in them.
      outside: read images that lie outside the folder too, where a file name leads there.
      corners: read each bbox as corners x1, y1, x2, y2 instead of x, y, width, height.
      upright: turn images with an EXIF orientation also where the annotated size does not tell.
      bands: numbers from 1 of the channels to read, such as (3, 2, 1), for images with more than
        three.

    Raises:
      FileNotFoundError: there are no annotations.
      ValueError: files contradict each other, or have no keypoints.
    """

    optional: tuple[str, ...] = ("annotated_box",)
    keypoints = 0
    has_objects = True
    keypoint_names: tuple[str, ...] = ()

    def __init__(
        self,
        raw_dir: str | pathlib.Path,
        *,
        keypoints: bool = False,
        outside: bool = False,
        corners: bool = False,
        upright: bool = False,
        bands: Sequence[int] | None = None,
    ):
        self.raw_dir, file = open_raw_folder(raw_dir)
        self._outside, self._corners = outside, corners
        self._image_options = {"upright": upright, "bands": bands}
        self._files = self._name_file(file) if file else self._find_files(PREFIXES[keypoints])
        self.splits = tuple(self._files)
        names: dict[int, str] = {}
        self._broken_categories: dict[pathlib.Path, list[str]] = {}
        has_lone_boxes = False
        for path in self._files.values():
            # The categories of all splits count, so that train and val get the same numbers even
            # if they are prepared separately. The rest of the file is read again later, because
            # two of COCO's files at once would need gigabytes.
            content = self._read_file(path)
            has_lone_boxes |= any(map(is_lone_box, content["annotations"]))
            categories, self._broken_categories[path] = read_categories(content, path)
            for identity, category in categories:
                self._visit_category(identity, category, path, keypoints)
                if names.setdefault(identity, category["name"]) != category["name"]:
                    raise ValueError(
                        f"{path}: category {identity} is {describe(category['name'])}, in another "
                        f"split it is {describe(names[identity])}; one id must mean one category"
                    )
        self.category_ids = tuple(sorted(names))
        self.categories = tuple(names[identity] for identity in self.category_ids)
        self.keypoints = len(self.keypoint_names)
        if keypoints and not self.keypoints:
            files = ", ".join(map(str, self._files.values()))
            raise ValueError(f"no category in {files} has a list of 'keypoints'")
        self.optional += ("keypoints",) if keypoints else ()
        self.optional += ("box_only",) if has_lone_boxes else ()

    # Subclasses of other layouts override these.

    def _find_files(self, prefix: str) -> dict[str, pathlib.Path]:
        return find_annotation_files(self.raw_dir, prefix)

    def _name_file(self, path: pathlib.Path) -> dict[str, pathlib.Path]:
        """Returns the split of a single annotation file."""
        name = path.resolve().parent.name if path.name == ROBOFLOW else remove_prefix(path.stem)
        return group_by_split([(name, path)])

    def _read_file(self, path: pathlib.Path) -> dict[str, Any]:
        return read_annotations(path)

    def _visit_category(
        self, identity: int, category: Mapping[str, Any], path: pathlib.Path, keypoints: bool
    ) -> None:
        """Reads the fields of a category other than its id and name."""
        listed = category.get("keypoints") if keypoints else ()
        names = tuple(map(str, listed)) if is_list(listed) else ()
        if names and self.keypoint_names not in ((), names):
            raise ValueError(
                f"{path}: {category['name']!r} has other keypoints than an earlier category: "
                f"{names}"
            )
        self.keypoint_names = names or self.keypoint_names

    def _read_image_fields(self, image: Mapping[str, Any], skipped: SkipCounts) -> dict[str, Any]:
        """Returns further fields of the record of an image."""
        return {}

    def _list_names(self, image: Mapping[str, Any]) -> Sequence[Any]:
        """Returns the names of the file of an image, the most trusted one first."""
        return (image.get("file_name"),)

    def _list_folders(self, annotations: pathlib.Path) -> list[pathlib.Path]:
        """Returns the folders in which the images of an annotation file may lie."""
        if annotations.name == ROBOFLOW:
            return [annotations.parent]
        # The folder has the name of the file. The split may differ: TFDS forbids characters in it.
        split, images = remove_prefix(annotations.stem), self.raw_dir / "images"
        return [self.raw_dir / split, images / split, images, self.raw_dir]

    # Reading a split

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the records of a split in the order of "images", see `RawSource.records`."""
        check_split(split, self.splits, self.raw_dir)
        path = self._files[split]
        content = self._read_file(path)
        self._warn_about_categories(path, skipped)
        folders = self._list_folders(path)
        root = path.parent if path.name == ROBOFLOW else self.raw_dir
        finder = ImageFinder(folders, root, outside=self._outside)
        images, by_image = group_by_image(content, path, skipped)
        if not self._corners:
            warn_about_corners(images, by_image, skipped)
        reader = ObjectReader(self.category_ids, self.keypoints, path.name, self._corners)
        objects = crowds = 0
        for key, image in images.items():
            try:
                record = self._read_record(image, key, finder, skipped)
            except UnusableError as error:
                skipped.add_image(error.reason, str(error))
                continue
            rows = reader.read_rows(by_image[key], record["height"], record["width"], skipped)
            objects, crowds = objects + len(rows), crowds + sum(row["crowd"] for row in rows)
            yield record | {"objects": stack_objects(rows, self.optional)}
        if objects and objects == crowds:
            skipped.add_warning(
                "all objects are crowds (iscrowd is 1), which are never trained on nor evaluated",
                f"{crowds} objects of {path.name}",
            )

    def _warn_about_categories(self, path: pathlib.Path, skipped: SkipCounts) -> None:
        """Warns about categories that cannot be used, and those that share a name."""
        for category in self._broken_categories[path]:
            reason = "category has no whole number as id, or no name: its objects are left out"
            skipped.add_warning(reason, category)
        for name, count in Counter(self.categories).items():
            if count > 1:
                reason = "several categories have one name, and stay separate classes"
                skipped.add_warning(reason, f"{count} categories {describe(name)}")

    def _read_record(
        self, image: Mapping[str, Any], key: str, finder: ImageFinder, skipped: SkipCounts
    ) -> Record:
        """Reads the image of a record, and its fields beside the objects."""
        path = finder.find(self._list_names(image), skipped)
        declared = [_read_side(image, side, path, skipped) for side in ("height", "width")]
        data, height, width = read_image(
            path,
            annotated_size=None if None in declared else tuple(declared),
            counts=skipped,
            **self._image_options,
        )
        if declared[0] not in (None, height) or declared[1] not in (None, width):
            annotated = " x ".join("?" if side is None else str(side) for side in declared)
            detail = f"{path.name!r} ({height} x {width}, annotated as {annotated})"
            raise UnusableError("image is not of the annotated size", detail)
        fields = {"image": data, "image_id": key, "height": height, "width": width}
        return fields | self._read_image_fields(image, skipped)


def _read_side(
    image: Mapping[str, Any], side: str, path: pathlib.Path, skipped: SkipCounts
) -> int | None:
    """Returns the annotated "height" or "width" of an image, or None if it is unknown."""
    if side not in image:
        return None
    pixels = parse_whole_number(image[side])
    if pixels is None or pixels < 1:
        reason = f"annotated {side} is not a number of pixels: that of the file is used"
        skipped.add_change(reason, f"{path.name!r}, {describe(image[side])}")
        return None
    return pixels
