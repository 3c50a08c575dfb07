"""COCO-format folders (Lin et al., 2014): an annotation JSON per split and a folder of images.

Annotations are <raw>/[annotations/]*.json with lists "images", "annotations" and "categories". A split is named
as its file without "instances_": instances_val2017.json is val2017. Where there are such files, other JSON
(captions, keypoints) is left alone; with keypoints=True those of people are read, person_keypoints_val2017.json.
Images are sought in <raw>/<split>, <raw>/images/<split>, <raw>/images, <raw>.
Without any, folders are splits (Roboflow's export): <raw>/<split>/_annotations.coco.json, the images beside it.
"""

import json
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from segjax.data.records import Record, stack_objects
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    check_split,
    read_image,
    require_folder,
    split_sort_key,
    to_split_name,
)
from segjax.masks import (
    RecordError,
    compute_mask_box,
    decode_mask,
    decode_run_lengths,
    encode_mask,
    parse_run_lengths,
)

# Annotation tools draw along the edge and round: a vertex this far outside (px) is clipped; one beyond belongs to
# another image.
POLYGON_SLACK = 2.0
ROBOFLOW = "_annotations.coco.json"
PREFIXES = ("instances_", "person_keypoints_")


class CocoFolder:
    """Raw source of a COCO-format folder.

    Args:
      keypoints: read the files with keypoints, person_keypoints_<split>.json, and the keypoints of their objects.

    Raises:
      FileNotFoundError: no instance annotations. ValueError: files that contradict each other, or no keypoints in them.
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
            # Every split's classes count, so that train and val prepared apart still number them alike. The rest is
            # read again when its turn comes: two of COCO's files at once would take gigabytes.
            for category in self._read(path)["categories"]:
                self._see(category, path, keypoints)
                if names.setdefault(category["id"], category["name"]) != category["name"]:
                    raise ValueError(
                        f"{path}: category {category['id']} is {category['name']!r}, "
                        f"in another split it is {names[category['id']]!r}; one id must mean one class"
                    )
        self.category_ids = tuple(sorted(names))
        self.categories = tuple(names[identity] for identity in self.category_ids)
        self.keypoints = len(self.keypoint_names)
        if keypoints and not self.keypoints:
            raise ValueError(
                f"no category in {', '.join(map(str, self._files.values()))} has a list of 'keypoints'"
            )
        self.optional += ("keypoints",) if keypoints else ()

    def _find_files(self, prefix: str) -> dict[str, pathlib.Path]:
        return _annotation_files(self.raw_dir, prefix)

    def _read(self, path: pathlib.Path) -> dict[str, Any]:
        return read_annotations(path)

    def _see(self, category: Mapping[str, Any], path: pathlib.Path, keypoints: bool) -> None:
        """Takes what is to be known of a category besides id and name."""
        names = tuple(category.get("keypoints", ())) if keypoints else ()
        if names and self.keypoint_names not in ((), names):
            raise ValueError(
                f"{path}: {category['name']!r} has other keypoints than an earlier category: {names}"
            )
        self.keypoint_names = names or self.keypoint_names

    def _of_picture(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """Further fields of a record."""
        return {}

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Records of a split, in the order of its "images" list. What is broken is skipped and counted."""
        check_split(split, self.splits, self.raw_dir)
        content = self._read(self._files[split])
        known = {image["id"] for image in content["images"]}
        by_image = defaultdict(list)
        for annotation in content["annotations"]:
            if annotation.get("image_id") in known:
                by_image[annotation["image_id"]].append(annotation)
            else:
                skipped.add_object(
                    "unknown image id in the annotations", _name(annotation, self._files[split])
                )
        for image in content["images"]:
            try:
                yield self._record(image, by_image[image["id"]], split, skipped)
            except UnusableError as error:
                skipped.add_image(error.reason, str(error))

    def _record(
        self, image: Mapping[str, Any], annotations: Sequence[Mapping], split: str, skipped: SkipCounts
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
                rows.append(self._object(annotation, height, width))
            except UnusableError as error:
                skipped.add_object(error.reason, f"{self._files[split].name}, {error}")
        record = {"image": data, "image_id": str(image["id"]), "height": height, "width": width}
        return record | {"objects": stack_objects(rows, self.optional)} | self._of_picture(image)

    def _object(self, annotation: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        name = _name(annotation)
        if annotation.get("category_id") not in self.category_ids:
            raise UnusableError(
                "unknown category id", f"{name}, category {annotation.get('category_id')}"
            )
        if "bbox" in annotation:
            _check_bbox(annotation["bbox"], name)
        mask = decode_segmentation(annotation.get("segmentation"), height, width, name)
        if not mask.any():
            raise UnusableError("mask is empty", name)
        area = annotation.get("area")
        return {
            "id": annotation["id"],
            "box": compute_mask_box(mask),
            "category": self.category_ids.index(annotation["category_id"]),
            "crowd": bool(annotation.get("iscrowd", 0)),
            # COCO's AP sorts objects into small, medium and large by the annotated (polygon) area.
            "area": float(area)
            if area and np.isfinite(area) and area > 0
            else float(np.count_nonzero(mask)),
            "rle": encode_mask(mask),
            "annotated_box": _corners(annotation["bbox"])
            if "bbox" in annotation
            else compute_mask_box(mask),
        } | (
            {"keypoints": read_keypoints(annotation, self.keypoints, name)}
            if self.keypoints
            else {}
        )

    def _find_image(self, image: Mapping[str, Any], split: str) -> pathlib.Path:
        name, annotations = image["file_name"], self._files[split]
        named = _without_prefix(
            annotations.stem
        )  # a split's name has lost what TFDS does not take in one
        images = self.raw_dir / "images"
        folders = [self.raw_dir / named, images / named, images, self.raw_dir]
        if annotations.name == ROBOFLOW:
            folders = [annotations.parent]
        return next(
            (folder / name for folder in folders if (folder / name).is_file()), images / name
        )


def _annotation_files(raw_dir: pathlib.Path, prefix: str) -> dict[str, pathlib.Path]:
    folders = [raw_dir, raw_dir / "annotations"]
    paths = sorted(path for folder in folders if folder.is_dir() for path in folder.glob("*.json"))
    named = [(_without_prefix(path.stem), path) for path in paths if path.name.startswith(prefix)]
    if not named:
        named = [(path.parent.name, path) for path in sorted(raw_dir.glob(f"*/{ROBOFLOW}"))]
    if not named:
        # Captions and keypoints lie beside COCO's own instance files; elsewhere any annotation file will do.
        others = ("captions_", *(PREFIXES[1:] if prefix == PREFIXES[0] else ()))
        named = [
            (_without_prefix(path.stem), path) for path in paths if not path.name.startswith(others)
        ]
    if not named:
        raise FileNotFoundError(
            f"no annotation JSON in {raw_dir} or {raw_dir / 'annotations'}, and no */{ROBOFLOW}"
        )
    return group_by_split(named)


def group_by_split(named: Sequence[tuple[str, pathlib.Path]]) -> dict[str, pathlib.Path]:
    """Split -> file, training first. Raises ValueError when two names become the same split."""
    files: dict[str, pathlib.Path] = {}
    for name, path in named:
        if (first := files.setdefault(to_split_name(name), path)) != path:
            raise ValueError(
                f"{first} and {path} would both be the split {to_split_name(name)!r}; rename one"
            )
    return {name: files[name] for name in sorted(files, key=split_sort_key)}


def _without_prefix(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def read_annotations(
    path: pathlib.Path, image_fields: tuple[str, ...] = ("id", "file_name")
) -> dict[str, Any]:
    """The content of a COCO annotation file. Raises ValueError naming what is missing from it."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); was the download cut short?") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path} is not a COCO instance file: it has no list {key!r}")
    for key, fields in (
        ("images", image_fields),
        ("annotations", ("id",)),
        ("categories", ("id", "name")),
    ):
        for entry in content[key]:
            missing = [field for field in fields if field not in entry]
            if missing:
                raise ValueError(
                    f"{path}: an entry of {key!r} has no {missing[0]!r}: {str(entry)[:100]}"
                )
            if key != "images" and not isinstance(entry["id"], int):
                raise ValueError(
                    f"{path}: an id in {key!r} is {entry['id']!r}; expected a whole number"
                )
    return content


def decode_segmentation(segmentation: Any, height: int, width: int, name: str) -> np.ndarray:
    """Mask bool [height, width] of a COCO segmentation: polygons (their union), compressed or uncompressed RLE.

    Raises UnusableError, saying what is wrong, when there is none, when it is malformed, or when it does not fit the image.
    """
    if isinstance(segmentation, Mapping):
        return _rle_mask(segmentation, height, width, name)
    if (
        not isinstance(segmentation, Sequence)
        or isinstance(segmentation, str)
        or len(segmentation) == 0
    ):
        raise UnusableError("no segmentation", name)
    for polygon in segmentation:
        _check_polygon(polygon, height, width, name)
    parts = coco_mask.frPyObjects(
        [[float(value) for value in polygon] for polygon in segmentation], height, width
    )
    return decode_mask(coco_mask.merge(parts)["counts"].decode("ascii"), height, width)


def _check_polygon(polygon: Any, height: int, width: int, name: str) -> None:
    try:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
    except (ValueError, TypeError) as error:
        raise UnusableError("polygon is not a list of x, y pairs", f"{name} ({error})") from error
    if len(points) < 3 or not np.isfinite(points).all():
        raise UnusableError(
            "polygon has fewer than 3 points or a NaN",
            f"{name}, {len(points)} points",
        )
    low, high = points.min(0), points.max(0)
    if (
        low.min() < -POLYGON_SLACK
        or high[0] > width + POLYGON_SLACK
        or high[1] > height + POLYGON_SLACK
    ):
        extent = f"x {low[0]:g}..{high[0]:g}, y {low[1]:g}..{high[1]:g} in an image of {height} x {width}"
        raise UnusableError("polygon does not fit its image", f"{name} ({extent})")


def _rle_mask(segmentation: Mapping[str, Any], height: int, width: int, name: str) -> np.ndarray:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if list(size or ()) != [height, width]:
        raise UnusableError(
            "RLE does not fit its image",
            f"{name} (RLE of size {size} for an image of {height} x {width})",
        )
    try:
        runs = (
            parse_run_lengths(counts)
            if isinstance(counts, str)
            else np.asarray(counts, np.int64).reshape(-1)
        )
        return decode_run_lengths(runs, height, width, name)
    except (RecordError, ValueError, TypeError) as error:
        raise UnusableError("RLE does not fit its image", f"{name} ({error})") from error


def read_keypoints(annotation: Mapping[str, Any], count: int, name: str) -> np.ndarray:
    """Keypoints float32 [count, 3] of an annotation, in the middle of the pixels that COCO names (as detectron2 has
    it); (0, 0, 0) where not labelled. Raises UnusableError for another number of them."""
    flat = annotation.get("keypoints") or [0] * 3 * count
    try:
        keypoints = np.asarray(flat, np.float32).reshape(count, 3)
    except (ValueError, TypeError) as error:
        raise UnusableError(
            f"keypoints are not {count} times x, y, visibility", f"{name} ({error})"
        ) from error
    return np.where(keypoints[:, 2:] > 0, keypoints + np.float32([0.5, 0.5, 0]), 0)


def _corners(bbox: Sequence[float]) -> np.ndarray:
    x, y, width, height = np.asarray(bbox, np.float64)
    return np.array([x, y, x + width, y + height], np.float32)


def _check_bbox(bbox: Any, name: str) -> None:
    values = (
        np.asarray(bbox, np.float64)
        if isinstance(bbox, Sequence) and len(bbox) == 4
        else np.full(4, np.nan)
    )
    if not np.isfinite(values).all():
        raise UnusableError("box is not four numbers", f"{name}, bbox {bbox}")
    if values[2] <= 0 or values[3] <= 0:
        raise UnusableError(
            "box with x2 <= x1 or y2 <= y1", f"{name}, bbox (x, y, width, height) {bbox}"
        )


def _name(annotation: Mapping[str, Any], path: pathlib.Path | None = None) -> str:
    prefix = f"{path.name}, " if path else ""
    return f"{prefix}annotation {annotation.get('id')} of image {annotation.get('image_id')}"
