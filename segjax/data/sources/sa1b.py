"""SA-1B (Kirillov et al. 2023), and other data with a JSON of masks beside each image.

  <raw>/**/sa_000020.tar      as released: members sa_223750.jpg and sa_223750.json
  <raw>/**/sa_223750.jpg      or unpacked at any depth, with sa_223750.json beside it

A JSON has "image" (height, width, ...) and "annotations". Each annotation has its mask as a COCO
run-length encoding ("segmentation"). If a data engine made it, it also has "predicted_iou" and
"stability_score". There are no classes and no splits. A small share of the images, chosen by the
CRC-32 of their names, is "val".
"""

import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from segjax.data.records import Record, stack_objects
from segjax.data.sources.annotations.sa1b import parse_annotations, read_object
from segjax.data.sources.raw import SkipCounts, UnusableError, check_split, require_folder
from segjax.data.sources.read_files import check_image_bytes
from segjax.data.sources.tars import TarReader
from segjax.data.threads import map_in_order

_SUFFIXES = (".jpg", ".jpeg", ".png")
# Name of an image in error messages, its bytes and those of its JSON, or why they cannot be read
_Files = tuple[str, bytes, bytes | None] | UnusableError


class Sa1b:
    """Reader of SA-1B. The id of an image is its file name without suffix.

    Masks that fall short of the limits are left out and counted.

    Args:
      raw_dir: folder of the raw files.
      held_out: share of the images that becomes "val". 0: no "val".
      min_area: least area of a mask, in pixels.
      max_area_fraction: largest area of a mask, as a share of the image.
      min_iou: least predicted IoU. The data engine of SA-1B used 0.88.
      min_stability: least stability score. The data engine of SA-1B used 0.95. Masks without
        these numbers count as 1.
      upright: turn images with an EXIF orientation also where the annotated size does not tell.

    Raises:
      FileNotFoundError: there are neither tars nor JSON files.
      ValueError: limits that leave nothing, too few images to hold some out, or no readable tar.
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
        upright: bool = False,
    ):
        self.raw_dir = require_folder(pathlib.Path(raw_dir), "raw folder")
        if not 0 <= held_out < 1 or not 0 < max_area_fraction <= 1:
            raise ValueError(
                f"held_out and max_area_fraction are shares, in 0 .. 1, got {held_out} and "
                f"{max_area_fraction}"
            )
        self.held_out, self.min_area, self.max_area_fraction = held_out, min_area, max_area_fraction
        self.upright = upright
        self.minima = {"predicted_iou": min_iou, "stability": min_stability}
        self.splits = ("train", "val") if held_out else ("train",)
        self._shards = _find_shards(self.raw_dir)
        for split in self.splits:
            self._check_split(split)

    def records(self, split: str, skipped: SkipCounts) -> Iterator[Record]:
        """Yields the records of a split, by shard and name, see `RawSource.records`."""
        check_split(split, self.splits, self.raw_dir)
        files = (
            files for shard in self._shards for files in self._read_files(shard, split, skipped)
        )
        for record, lost in map_in_order(self._make_record, files):
            skipped.merge(lost)
            if isinstance(record, UnusableError):
                skipped.add_image(record.reason, str(record))
            else:
                yield record

    def _check_split(self, split: str) -> None:
        """Raises ValueError unless at least one image belongs to a split."""
        skipped = SkipCounts()
        seen = False
        for shard in self._shards:
            for name in _list_names(shard, skipped):
                seen = True
                if self._is_in_split(split, name):
                    return
        if not seen and skipped.images:
            reasons = (
                f"{count} times {reason}, such as {skipped.examples[reason][0]}"
                for reason, count in skipped.images.items()
            )
            raise ValueError(f"no tar in {self.raw_dir} holds images: {'; '.join(reasons)}")
        raise ValueError(
            f"none of the images in {self.raw_dir} falls into {split!r} with "
            f"held_out={self.held_out}; use a larger share for few images (--option "
            "held_out=0.1), or held_out=0 to make all of them 'train'"
        )

    def _is_in_split(self, split: str, name: str) -> bool:
        """Decides by the CRC-32 of its name whether an image belongs to a split."""
        held = zlib.crc32(os.fsencode(pathlib.PurePath(name).stem)) < self.held_out * 2**32
        return held == (split == "val")

    def _read_files(self, shard: pathlib.Path, split: str, skipped: SkipCounts) -> Iterator[_Files]:
        """Yields the images of a shard that belong to a split, with their JSON."""
        if shard.is_dir():
            for name in _list_names(shard, skipped):
                if self._is_in_split(split, name):
                    yield _read_pair(shard / name)
            return
        with TarReader(shard) as tar:
            if tar.fault:
                skipped.add_image(tar.fault, tar.detail)
            for name in tar.members:
                if name.lower().endswith(_SUFFIXES) and self._is_in_split(split, name):
                    yield _read_members(tar, name)

    def _make_record(self, files: _Files) -> tuple[Record | UnusableError, SkipCounts]:
        """Returns the record of an image, or the error, with counts of its skipped objects."""
        # Other images are read at the same time, so each counts for itself.
        lost = SkipCounts()
        if isinstance(files, UnusableError):
            return files, lost
        where, image, text = files
        try:
            if text is None:
                raise UnusableError("no JSON beside the image", where)
            annotations, size = parse_annotations(text, where)
            data, height, width = check_image_bytes(
                image, where, annotated_size=size, upright=self.upright, counts=lost
            )
            rows = list(self._read_rows(annotations, height, width, where, lost))
        except UnusableError as error:
            return error, lost
        identity = pathlib.PurePath(where).stem
        record = {"image": data, "image_id": identity, "height": height, "width": width}
        return record | {"objects": stack_objects(rows, self.optional)}, lost

    def _read_rows(
        self, annotations: list[Any], height: int, width: int, where: str, lost: SkipCounts
    ) -> Iterator[dict[str, Any]]:
        """Yields the usable objects of an image."""
        for index, annotation in enumerate(annotations):
            try:
                row = read_object(annotation, index, height, width, where)
            except UnusableError as error:
                lost.add_object(error.reason, str(error))
                continue
            if reason := self._find_fault(row, height * width):
                lost.add_object(reason, f"{where}, mask {row['id']}")
            else:
                yield row

    def _find_fault(self, row: Mapping[str, Any], pixels: int) -> str:
        """Returns the limit that an object of an image of `pixels` misses, or ""."""
        if row["area"] < self.min_area:
            return "area below min_area"
        if row["area"] > self.max_area_fraction * pixels:
            return "area above max_area_fraction"
        low = (name for name, minimum in self.minima.items() if row[name] < minimum)
        return next((f"{name} too low" for name in low), "")


def _find_shards(raw_dir: pathlib.Path) -> list[pathlib.Path]:
    """Finds the tars, and the folders that hold annotations.

    Raises:
      FileNotFoundError: there are neither.
    """
    found = []
    for folder, _, names in os.walk(raw_dir):
        found += [pathlib.Path(folder, name) for name in names if name.endswith(".tar")]
        # A folder with a JSON holds unpacked images.
        if any(name.endswith(".json") for name in names):
            found.append(pathlib.Path(folder))
    if not found:
        raise FileNotFoundError(
            f"no *.tar and no *.json under {raw_dir}; expected tars of sa_*.jpg and sa_*.json"
        )
    return sorted(found)


def _list_names(shard: pathlib.Path, skipped: SkipCounts) -> Iterator[str]:
    """Yields the names of the images of a shard, sorted in a folder."""
    if shard.is_dir():
        yield from sorted(path.name for path in shard.iterdir() if path.suffix.lower() in _SUFFIXES)
        return
    with TarReader(shard) as tar:
        if tar.fault:
            skipped.add_image(tar.fault, tar.detail)
        yield from (name for name in tar.members if name.lower().endswith(_SUFFIXES))


def _read_pair(path: pathlib.Path) -> _Files:
    """Reads an image file and the JSON beside it."""
    text = path.with_suffix(".json")
    try:
        # A pipe of that name would never end.
        if not path.is_file():
            return UnusableError("image is not a file", str(path))
        return str(path), path.read_bytes(), text.read_bytes() if text.is_file() else None
    except OSError as error:
        return UnusableError("file cannot be read", f"{path} ({error.strerror})")


def _read_members(tar: TarReader, name: str) -> _Files:
    """Reads an image of a tar and the JSON of the same name."""
    text = str(pathlib.PurePosixPath(name).with_suffix(".json"))
    try:
        found = tar.read(text) if text in tar.members else None
        return f"{tar.path}/{name}", tar.read(name), found
    except UnusableError as error:
        return error
