"""COCO-format folders (Lin et al. 2014): an annotation JSON per split and folders of images.

Annotations are <raw>/[annotations/]*.json with the lists "images", "annotations" and "categories".
A split has the name of its file without "instances_", so instances_val2017.json is val2017. If
there are files with this prefix, other JSON files (captions, keypoints) are ignored. With
keypoints=True, person_keypoints_val2017.json and its like are read instead.

Images may lie in <raw>/<split>, <raw>/images/<split>, <raw>/images or <raw>.

Without such files, folders are splits, as Roboflow exports them:
<raw>/<split>/_annotations.coco.json, with the images beside it.
"""

import pathlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.records import Record, stack_objects
from segjax.data.sources.coco_annotations import (
    check_box_numbers,
    decode_segmentation,
    read_annotations,
    read_box,
    read_keypoints,
)
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    check_split,
    require_folder,
    split_sort_key,
    to_split_name,
)
from segjax.data.sources.read_files import read_image
from segjax.masks import compute_mask_box, encode_mask

ROBOFLOW = "_annotations.coco.json"
PREFIXES = ("instances_", "person_keypoints_")


class CocoFolder:
    """Reader of a COCO-format folder.

    Args:
      raw_dir: folder of the raw files.
      keypoints: read person_keypoints_<split>.json, and the keypoints of the objects in them.

    Raises:
      FileNotFoundError: there are no annotations.
      ValueError: files contradict each other, or have no keypoints.
    """

    optional: tuple[str, ...] = ("annotated_box",)
    keypoints = 0
    has_objects = True
    keypoint_names: tuple[str, ...] = ()

    def __init__(self, raw_dir: str | pathlib.Path, *, keypoints: bool = False):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        self._files = self._find_files(PREFIXES[keypoints])
        self.splits = tuple(self._files)
        names: dict[int, str] = {}
        for path in self._files.values():
            # The categories of all splits count, so that train and val get the same numbers even
            # if they are prepared separately. The rest of the file is read again later, because
            # two of COCO's files at once would need gigabytes.
            for category in self._read_file(path)["categories"]:
                self._visit_category(category, path, keypoints)
                if names.setdefault(category["id"], category["name"]) != category["name"]:
                    raise ValueError(
                        f"{path}: category {category['id']} is {category['name']!r}, in another "
                        f"split it is {names[category['id']]!r}; one id must mean one category"
                    )
        self.category_ids = tuple(sorted(names))
        self.categories = tuple(names[identity] for identity in self.category_ids)
        self.keypoints = len(self.keypoint_names)
        if keypoints and not self.keypoints:
            files = ", ".join(map(str, self._files.values()))
            raise ValueError(f"no category in {files} has a list of 'keypoints'")
        self.optional += ("keypoints",) if keypoints else ()

    def _find_files(self, prefix: str) -> dict[str, pathlib.Path]:
        return _find_annotation_files(self.raw_dir, prefix)

    def _read_file(self, path: pathlib.Path) -> dict[str, Any]:
        return read_annotations(path)

    def _visit_category(
        self, category: Mapping[str, Any], path: pathlib.Path, keypoints: bool
    ) -> None:
        """Reads the fields of a category other than its id and name."""
        names = tuple(category.get("keypoints", ())) if keypoints else ()
        if names and self.keypoint_names not in ((), names):
            raise ValueError(
                f"{path}: {category['name']!r} has other keypoints than an earlier category: "
                f"{names}"
            )
        self.keypoint_names = names or self.keypoint_names

    def _read_image_fields(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """Returns further fields of the record of an image."""
        return {}

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the records of a split in the order of "images", see `RawSource.records`."""
        check_split(split, self.splits, self.raw_dir)
        content = self._read_file(self._files[split])
        known = {image["id"] for image in content["images"]}
        by_image = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation.get("image_id") in known:
                by_image[annotation["image_id"]].append(annotation)
            else:
                skipped.add_object(
                    "unknown image id in the annotations", _describe(annotation, self._files[split])
                )
        for image in content["images"]:
            try:
                yield self._read_record(image, by_image[image["id"]], split, skipped)
            except UnusableError as error:
                skipped.add_image(error.reason, str(error))

    def _read_record(
        self,
        image: Mapping[str, Any],
        annotations: Sequence[Mapping],
        split: str,
        skipped: SkipCounts,
    ) -> Record:
        path = self._find_image(image, split)
        data, height, width = read_image(path)
        declared = (image.get("height", height), image.get("width", width))
        if declared != (height, width):
            detail = f"{path.name} ({height} x {width}, annotated as {declared[0]} x {declared[1]})"
            raise UnusableError("image is not of the annotated size", detail)
        rows = []
        for annotation in annotations:
            try:
                rows.append(self._read_object(annotation, height, width))
            except UnusableError as error:
                skipped.add_object(error.reason, f"{self._files[split].name}, {error}")
        record = {"image": data, "image_id": str(image["id"]), "height": height, "width": width}
        return (
            record
            | {"objects": stack_objects(rows, self.optional)}
            | self._read_image_fields(image)
        )

    def _read_object(
        self, annotation: Mapping[str, Any], height: int, width: int
    ) -> dict[str, Any]:
        name = _describe(annotation)
        if annotation.get("category_id") not in self.category_ids:
            raise UnusableError(
                "unknown category id", f"{name}, category {annotation.get('category_id')}"
            )
        if "bbox" in annotation:
            check_box_numbers(annotation["bbox"], name)
        mask = decode_segmentation(annotation.get("segmentation"), height, width, name)
        if not mask.any():
            raise UnusableError("mask is empty", name)
        box = compute_mask_box(mask)
        # COCO's AP sorts objects into small, medium and large by the annotated (polygon) area.
        area = annotation.get("area")
        has_area = area and np.isfinite(area) and area > 0
        row = {
            "id": annotation["id"],
            "box": box,
            "category": self.category_ids.index(annotation["category_id"]),
            "crowd": bool(annotation.get("iscrowd", 0)),
            "area": float(area) if has_area else float(np.count_nonzero(mask)),
            "rle": encode_mask(mask),
            "annotated_box": read_box(annotation["bbox"]) if "bbox" in annotation else box,
        }
        if self.keypoints:
            row["keypoints"] = read_keypoints(annotation, self.keypoints, name)
        return row

    def _find_image(self, image: Mapping[str, Any], split: str) -> pathlib.Path:
        name, annotations = image["file_name"], self._files[split]
        # The folder has the name of the file. The split may differ: TFDS forbids characters in it.
        split_folder = _remove_prefix(annotations.stem)
        images = self.raw_dir / "images"
        folders = [self.raw_dir / split_folder, images / split_folder, images, self.raw_dir]
        if annotations.name == ROBOFLOW:
            folders = [annotations.parent]
        return next(
            (folder / name for folder in folders if (folder / name).is_file()), images / name
        )


def _find_annotation_files(raw_dir: pathlib.Path, prefix: str) -> dict[str, pathlib.Path]:
    folders = [raw_dir, raw_dir / "annotations"]
    paths = sorted(path for folder in folders if folder.is_dir() for path in folder.glob("*.json"))
    named = [(_remove_prefix(path.stem), path) for path in paths if path.name.startswith(prefix)]
    if not named:
        named = [(path.parent.name, path) for path in sorted(raw_dir.glob(f"*/{ROBOFLOW}"))]
    if not named:
        # Captions and keypoints lie beside COCO's instance files. Elsewhere, any file may be read.
        others = ("captions_", *(PREFIXES[1:] if prefix == PREFIXES[0] else ()))
        named = [
            (_remove_prefix(path.stem), path) for path in paths if not path.name.startswith(others)
        ]
    if not named:
        raise FileNotFoundError(
            f"no annotation JSON in {raw_dir} or {raw_dir / 'annotations'}, and no */{ROBOFLOW}"
        )
    return group_by_split(named)


def group_by_split(named: Sequence[tuple[str, pathlib.Path]]) -> dict[str, pathlib.Path]:
    """Maps splits to their annotation files, training first.

    Args:
      named: pairs of a name and its file.

    Raises:
      ValueError: two names become the same split.
    """
    files: dict[str, pathlib.Path] = {}
    for name, path in named:
        if (first := files.setdefault(to_split_name(name), path)) != path:
            raise ValueError(
                f"{first} and {path} would both be the split {to_split_name(name)!r}; rename one"
            )
    return {name: files[name] for name in sorted(files, key=split_sort_key)}


def _remove_prefix(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _describe(annotation: Mapping[str, Any], path: pathlib.Path | None = None) -> str:
    prefix = f"{path.name}, " if path else ""
    return f"{prefix}annotation {annotation.get('id')} of image {annotation.get('image_id')}"
