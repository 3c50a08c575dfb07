"""Protocol of the readers of raw data, and the counts of what they skip."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from segjax.data.records import Record
from segjax.messages import make_printable

EXAMPLES_PER_REASON = 3


class RawSource(Protocol):
    """Reader of raw data, such as `segjax.data.sources.coco.CocoFolder`.

    To prepare data in a format of your own, write a class with the attributes and the method
    below, and register it. It may live in any package:

        import pathlib
        import segjax
        from segjax.data.records import stack_objects
        from segjax.data.sources.raw import RawSource, UnusableError
        from segjax.data.sources.read_files import (
            build_objects_from_map, list_images, read_image, read_label_map
        )

        class MyMasks(RawSource):
            \"\"\"photos/*.jpg with masks/*.png, in which each value above 0 is one object.\"\"\"

            splits, categories, category_ids = ("train",), ("object",), (1,)

            def __init__(self, raw_dir):
                self.raw_dir = pathlib.Path(raw_dir)

            def records(self, split, skipped):
                for path in list_images(self.raw_dir / "photos"):
                    try:
                        image, height, width = read_image(path)
                        labels = read_label_map(self.raw_dir / f"masks/{path.stem}.png", "mask")
                    except UnusableError as error:
                        skipped.add_image(error.reason, str(error))
                        continue
                    objects = stack_objects(build_objects_from_map(labels))
                    yield dict(
                        image=image, image_id=path.stem, height=height, width=width, objects=objects
                    )

        segjax.register_source("my_masks", MyMasks)
        segjax.prepare("my_masks", "raw/", "data/my_masks")

    `prepare` calls the class with the raw folder and with the options that the user passes
    (`--option NAME=VALUE`). Options are keyword arguments, and values are checked by the types of
    their defaults. `held_out` needs no code: `prepare` divides a single split itself, unless the
    class has an argument of this name. The schema of records is in `segjax.data.records`.
    `prepare` checks each record against it, so a reader need not.

    Attributes:
      splits: names of the splits, training first. Letters, digits and underscores only.
      categories: name of each category, indexed by the `category` of objects, 0..K-1.
      category_ids: id of each category in the raw files.
      optional: names of the optional fields in the records.
      keypoints: number of keypoints per object.
      has_objects: False for images without any objects, such as ImageNet. Otherwise `prepare`
        skips images without objects, unless it is told to keep them.
      keypoint_names: name of each keypoint.
      frequencies: "r", "c" or "f" of each category (rare, common, frequent), for LVIS.
    """

    splits: tuple[str, ...]
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    optional: tuple[str, ...] = ()
    keypoints: int = 0
    has_objects: bool = True
    keypoint_names: tuple[str, ...] = ()
    frequencies: tuple[str, ...] = ()

    def records(self, split: str, skipped: "SkipCounts") -> Iterator[Record]:
        """Yields the records of a split in a fixed order.

        Args:
          split: one of `splits`.
          skipped: counts the images and objects that cannot be used.
        """
        ...


@dataclasses.dataclass
class SkipCounts:
    """Counts of everything in raw files that a record does not hold as it was written.

    Attributes:
      images: reason -> number of images that were skipped.
      objects: reason -> number of objects that were skipped.
      changed: reason -> number of values that were repaired or read in another sense.
      suspicious: reason -> number of values that are kept although they look wrong.
      examples: reason -> description of the first few.
    """

    images: dict[str, int] = dataclasses.field(default_factory=dict)
    objects: dict[str, int] = dataclasses.field(default_factory=dict)
    changed: dict[str, int] = dataclasses.field(default_factory=dict)
    suspicious: dict[str, int] = dataclasses.field(default_factory=dict)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add_image(self, reason: str, detail: str) -> None:
        """Counts one skipped image. `detail` names it and describes the problem."""
        self._add(self.images, reason, detail)

    def add_object(self, reason: str, detail: str) -> None:
        """Counts one skipped object. `detail` names it and describes the problem."""
        self._add(self.objects, reason, detail)

    def add_change(self, reason: str, detail: str) -> None:
        """Counts one value that was repaired, such as a box that contradicts its mask."""
        self._add(self.changed, reason, detail)

    def add_warning(self, reason: str, detail: str) -> None:
        """Counts one value that is kept although it looks wrong."""
        self._add(self.suspicious, reason, detail)

    def merge(self, other: "SkipCounts") -> None:
        """Adds the counts of another object to this one."""
        for kind in ("images", "objects", "changed", "suspicious"):
            ours = getattr(self, kind)
            for reason, count in getattr(other, kind).items():
                ours[reason] = ours.get(reason, 0) + count
        # Only the first few examples of each reason are kept.
        for reason, details in other.examples.items():
            examples = self.examples.get(reason, []) + details
            self.examples[reason] = examples[:EXAMPLES_PER_REASON]

    def _add(self, counts: dict[str, int], reason: str, detail: str) -> None:
        counts[reason] = counts.get(reason, 0) + 1
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES_PER_REASON:
            examples.append(make_printable(detail))


class UnusableError(ValueError):
    """Error for a raw image or object that cannot become part of a record.

    Attributes:
      reason: short text that reports count. It names no file, so that equal problems add up.
    """

    def __init__(self, reason: str, detail: str):
        self.reason = reason
        super().__init__(f"{detail}: {reason}")


# Folders and splits


def require_folder(path: pathlib.Path, description: str) -> pathlib.Path:
    """Returns the path if it is a folder.

    Args:
      path: of the folder.
      description: of the folder, in the error message.

    Raises:
      FileNotFoundError: it is not a folder.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{description} not found: {path} is not a folder")
    return path


def join_inside(
    folder: pathlib.Path,
    name: Any,
    outside: bool = False,
    *,
    root: pathlib.Path | None = None,
) -> pathlib.Path:
    """Joins a folder and a file name that a raw file gives, if the path stays inside.

    A data set made by others could otherwise name any image of this machine, which would then be
    in the prepared data. Symbolic links are followed: many people link their image folders, and
    caches consist of links. A file name alone cannot make one.

    Args:
      folder: the name is relative to it.
      name: value of a field such as COCO's `file_name`.
      outside: allow names that lead elsewhere.
      root: folder that the path must not leave. None is `folder`.

    Raises:
      UnusableError: the name is not text, or leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise UnusableError("file name is not the name of a file", repr(name)[:100])
    # Windows' names have backslashes and drive letters, which mean nothing here.
    parts = name.replace("\\", "/")
    is_absolute = parts.startswith("/") or pathlib.PureWindowsPath(name).is_absolute()
    root = os.path.abspath(root or folder)
    inside = os.path.abspath(os.path.join(folder, parts))
    if not outside and (is_absolute or os.path.commonpath([root, inside]) != root):
        raise UnusableError(
            "file name leads outside the raw folder (--option outside=True allows it)",
            f"{name[:200]!r} in {root}",
        )
    # "link/../a.jpg" must mean "a.jpg", wherever the link leads.
    return pathlib.Path(os.path.normpath(folder / name))


def check_split(split: str, splits: Sequence[str], where: pathlib.Path | str) -> None:
    """Raises ValueError, which lists the splits, unless `split` is one of them."""
    if split not in splits:
        raise ValueError(f"{where} has no split {split!r}; it has {', '.join(splits)}")


def to_split_name(text: str) -> str:
    """Converts the name of a file or folder to the name of a split.

    TFDS allows letters, digits and underscores. Everything else becomes an underscore. "all"
    becomes "all_images", because TFDS calls the union of all splits "all".
    """
    name = re.sub(r"\W", "_", text)
    return "all_images" if name == "all" else name


def split_sort_key(name: str) -> tuple[bool, bool, str]:
    """Returns a key that sorts splits: training first, then validation, then the others."""
    return "train" not in name, "val" not in name, name
