"""SA-1B (Kirillov et al. 2023), and whatever else is written like it: beside each picture a JSON with its masks.

  <raw>/**/sa_000020.tar      as it is released: members sa_223750.jpg and sa_223750.json
  <raw>/**/sa_223750.jpg      or unpacked, in folders however deep, sa_223750.json beside it

A JSON has "image" (height, width, ...) and "annotations", each with its mask as COCO run lengths ("segmentation"), and,
if the data engine made it, "predicted_iou" and "stability_score". There are no classes and no splits: of the pictures a
small share, by the CRC-32 of their names, is "val".
"""

import json
import os
import pathlib
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from segjax.data.records import Record, stack_objects
from segjax.data.sources.raw import (
    SkipCounts,
    UnusableError,
    check_image_bytes,
    check_split,
    require_folder,
)
from segjax.data.threads import map_in_order
from segjax.masks import RecordError, check_run_lengths, parse_run_lengths

_SUFFIXES = (".jpg", ".jpeg", ".png")
_Files = tuple[
    str, bytes | None, bytes | None
]  # where a picture comes from, its bytes and its JSON's


class Sa1b:
    """Raw source of SA-1B. Image ids are file names without suffix.

    Args:
      held_out: share of the pictures that become "val"; 0: there is no "val".
      min_area: masks with fewer pixels are left out; max_area_fraction: those with a larger share of the picture.
      min_iou, min_stability: masks of which the data engine thought less are left out; its own limits were .88 and .95.
        A mask without such a number counts as sure.

    Raises:
      FileNotFoundError: there is nothing of the kind. ValueError: limits that leave nothing, or too few pictures to
        hold any out.
    """

    categories: tuple[str, ...] = ("object",)
    category_ids: tuple[int, ...] = (1,)
    optional: tuple[str, ...] = ("predicted_iou", "stability")
    keypoints = 0
    has_objects = True

    def __init__(
        self,
        raw_dir: str | pathlib.Path,
        *,
        held_out: float = 0.001,
        min_area: float = 0.0,
        max_area_fraction: float = 1.0,
        min_iou: float = 0.0,
        min_stability: float = 0.0,
    ):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        if not 0 <= held_out < 1 or not 0 < max_area_fraction <= 1:
            raise ValueError(
                f"held_out and max_area_fraction are shares, in 0 .. 1, got {held_out} and {max_area_fraction}"
            )
        self.held_out, self.min_area, self.max_area_fraction = held_out, min_area, max_area_fraction
        self.least = {"predicted_iou": min_iou, "stability": min_stability}
        self.splits = ("train", "val") if held_out else ("train",)
        self._shards = _shards(self.raw_dir)
        for split in self.splits:
            if not any(
                self._is_of(split, name) for shard in self._shards for name in _names(shard)
            ):
                raise ValueError(
                    f"none of the pictures in {self.raw_dir} falls into {split!r} with held_out={held_out}; a larger "
                    "--option held_out=.1 divides few pictures, held_out=0 makes all of them 'train'"
                )

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Records of a split, by tar or folder and name. What is broken is skipped and counted."""
        check_split(split, self.splits, self.raw_dir)
        files = (files for shard in self._shards for files in self._files(shard, split, skipped))
        for record, lost in map_in_order(self._read, files):
            skipped.merge(lost)
            if isinstance(record, UnusableError):
                skipped.add_image(record.reason, str(record))
            else:
                yield record

    def _is_of(self, split: str, name: str) -> bool:
        held = zlib.crc32(pathlib.PurePath(name).stem.encode()) < self.held_out * 2**32
        return held == (split == "val")

    def _files(self, shard: pathlib.Path, split: str, skipped: SkipCounts) -> Iterator[_Files]:
        """The pictures of a tar or folder that are of a split, with their JSON."""
        if shard.is_dir():
            for name in _names(shard):
                if self._is_of(split, name):
                    picture = shard / name
                    found = picture.with_suffix(".json")
                    yield (
                        str(picture),
                        picture.read_bytes(),
                        found.read_bytes() if found.is_file() else None,
                    )
            return
        with tarfile.open(shard, "r:") as tar:
            members = _members(tar, shard, skipped)
            for name, member in members.items():
                if name.lower().endswith(_SUFFIXES) and self._is_of(split, name):
                    pair = (member, members.get(str(pathlib.PurePath(name).with_suffix(".json"))))
                    yield (
                        f"{shard}/{name}",
                        *(None if one is None else _content(tar, one) for one in pair),
                    )

    def _read(self, files: _Files) -> tuple[Record | UnusableError, SkipCounts]:
        where, picture, text = files
        lost = SkipCounts()  # of this picture, for others are being read at the same time
        try:
            if text is None:
                raise UnusableError("no JSON beside the image", where)
            data, height, width = check_image_bytes(picture or b"", where)
            rows = list(self._rows(_annotations(text, where), height, width, where, lost))
        except UnusableError as error:
            return error, lost
        identity = pathlib.PurePath(where).stem
        record = {"image": data, "image_id": identity, "height": height, "width": width}
        return record | {"objects": stack_objects(rows, self.optional)}, lost

    def _rows(
        self, annotations: list[Any], height: int, width: int, where: str, lost: SkipCounts
    ) -> Iterator[dict[str, Any]]:
        for position, annotation in enumerate(annotations):
            try:
                row = _object(annotation, position, height, width, where)
            except UnusableError as error:
                lost.add_object(error.reason, str(error))
                continue
            if reason := self._too_poor(row, height * width):
                lost.add_object(reason, f"{where}, mask {row['id']}")
            else:
                yield row

    def _too_poor(self, row: Mapping[str, Any], pixels: int) -> str:
        if row["area"] < self.min_area:
            return "area below min_area"
        if row["area"] > self.max_area_fraction * pixels:
            return "area above max_area_fraction"
        return next(
            (f"{name} too low" for name, least in self.least.items() if row[name] < least), ""
        )


def _shards(raw_dir: pathlib.Path) -> list[pathlib.Path]:
    """Tars, and folders that hold annotations. Raises FileNotFoundError where there is neither."""
    found = []
    for folder, _, names in os.walk(raw_dir):
        found += [pathlib.Path(folder, name) for name in names if name.endswith(".tar")]
        if any(name.endswith(".json") for name in names):
            found.append(pathlib.Path(folder))
    if not found:
        raise FileNotFoundError(
            f"no *.tar and no *.json under {raw_dir}; SA-1B is tars of sa_*.jpg and sa_*.json"
        )
    return sorted(found)


def _names(shard: pathlib.Path) -> Iterator[str]:
    """Names of the pictures of a folder or tar, sorted within a folder."""
    if shard.is_dir():
        yield from sorted(path.name for path in shard.iterdir() if path.suffix.lower() in _SUFFIXES)
        return
    with tarfile.open(shard, "r:") as tar:
        yield from (
            name for name in _members(tar, shard, SkipCounts()) if name.lower().endswith(_SUFFIXES)
        )


def _members(
    tar: tarfile.TarFile, shard: pathlib.Path, skipped: SkipCounts
) -> dict[str, tarfile.TarInfo]:
    """Files of a tar by name; of one that was cut short those before the cut."""
    members = {}
    try:
        for member in tar:
            if member.isfile():
                members[str(pathlib.PurePath(member.name))] = member  # without a leading ./
    except tarfile.TarError as error:
        skipped.add_image("tar is truncated", f"{shard} ({error})")
    return members


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        return tar.extractfile(member).read()
    except tarfile.TarError:
        return b""  # of a file that was cut short, which is reported as such a picture


def _annotations(text: bytes, where: str) -> list[Any]:
    try:
        found = json.loads(text)["annotations"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnusableError("JSON is broken or has no annotations", f"{where} ({error!r})") from error
    if not isinstance(found, list):
        raise UnusableError("JSON is broken or has no annotations", f"{where} ({type(found).__name__})")
    return found


def _object(annotation: Any, position: int, height: int, width: int, where: str) -> dict[str, Any]:
    """One object's fields, its mask never unpacked: there are a hundred of three megapixels in a picture."""
    fields = annotation if isinstance(annotation, Mapping) else {}
    name = f"{where}, mask {fields.get('id', position)}"
    segmentation = fields.get("segmentation")
    if not isinstance(segmentation, Mapping) or list(segmentation.get("size", ())) != [
        height,
        width,
    ]:
        raise UnusableError("RLE does not fit its image", f"{name} (an image of {height} x {width})")
    rle = segmentation.get("counts")
    try:
        runs = parse_run_lengths(rle)
        check_run_lengths(runs, height, width, name)
    except (RecordError, AttributeError) as error:
        raise UnusableError("RLE does not fit its image", f"{name} ({error})") from error
    if not runs[1::2].any():
        raise UnusableError("mask is empty", name)
    x, y, wide, high = coco_mask.toBbox({"size": [height, width], "counts": rle.encode()})
    return {
        "id": int(fields.get("id", position)),
        "box": np.array([x, y, x + wide, y + high], np.float32),
        "category": 0,
        "crowd": False,
        "area": float(runs[1::2].sum()),
        "rle": rle,
        "predicted_iou": float(fields.get("predicted_iou", 1.0)),
        "stability": float(fields.get("stability_score", 1.0)),
    }
