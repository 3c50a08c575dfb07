"""Report of a preparation: what was written, skipped and changed, for people and as JSON."""

import dataclasses
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from segjax.data.records import Record, has_box_only
from segjax.data.sources.raw import SkipCounts
from segjax.files import read_json_object
from segjax.messages import make_printable

REPORT_FILE = "report.json"
# Areas in pixels between COCO's small, medium and large objects
AREAS = (32**2, 96**2)
# Classes in the printed table. The file has all of them.
_MAX_CLASSES = 20


@dataclasses.dataclass
class SplitReport:
    """Counts of one prepared split.

    Attributes:
      images: number of images written.
      objects: number of objects written.
      seconds: time it took.
      skipped: images and objects that were skipped, changed or look wrong, by reason.
      crowds: number of objects that are crowds.
      box_only: number of objects that have a box and no mask.
      without_objects: number of images without objects.
      most_objects: largest number of objects of an image.
      classes: class -> number of its objects, or of its images if the images have labels.
      sizes: "smallest", "median" and "largest" -> [width, height] of an image, by area.
      areas: "small", "medium" and "large" -> number of objects, divided as in COCO at 32 x 32 and
        96 x 96 pixels.
    """

    images: int = 0
    objects: int = 0
    seconds: float = 0.0
    skipped: SkipCounts = dataclasses.field(default_factory=SkipCounts)
    crowds: int = 0
    box_only: int = 0
    without_objects: int = 0
    most_objects: int = 0
    classes: dict[str, int] = dataclasses.field(default_factory=dict)
    sizes: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    areas: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Report:
    """Report of `prepare`. `str(report)` is for people, and report.json holds the same facts.

    Attributes:
      source: name of the data source.
      out: prepared folder.
      splits: report of each split.
      held_out: {"from": split, "share": share} if "val" was held out of a single split. The
        images and objects that were skipped are then listed under "train".
    """

    source: str
    out: str
    splits: dict[str, SplitReport] = dataclasses.field(default_factory=dict)
    held_out: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source} -> {self.out}"]
        if self.held_out:
            total = sum(split.images for split in self.splits.values())
            lines.append(
                f"  {self.splits['val'].images} of the {total} images of "
                f"{self.held_out['from']!r} are held out as 'val'; train lists what was skipped of "
                "both"
            )
        for name, split in self.splits.items():
            objects = f", {split.objects} objects" if split.objects else ""
            lines.append(f"  {name}: {split.images} images{objects}, {split.seconds:.1f} s")
            lines += [f"    {line}" for line in _describe_split(split)]
            lines += [f"    {line}" for line in list_reasons(split.skipped)]
        return "\n".join(lines + [f"  {line}" for line in _make_class_table(self.splits)])


class SplitCounter:
    """Counter of the records of a split.

    Args:
      report: receives the counts, complete after the last record.
      categories: names of the categories.
      keep_ids: collect the ids of the images in `image_ids`.
    """

    def __init__(self, report: SplitReport, categories: Sequence[str], *, keep_ids: bool = False):
        self.report, self._keep_ids = report, keep_ids
        # Two categories may have the same name.
        twice = {name for name, count in Counter(categories).items() if count > 1}
        self._names = [f"{n} ({k})" if n in twice else n for k, n in enumerate(categories)]
        self._classes = np.zeros(len(categories), np.int64)
        self._areas = np.zeros(3, np.int64)
        self._sizes: Counter[tuple[int, int]] = Counter()
        self.image_ids: list[str] = []

    def count(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yields records, and counts each of them."""
        for record in records:
            self._add(record)
            yield record
        self._finish()

    def _add(self, record: Record) -> None:
        report, objects = self.report, record["objects"]
        count = len(objects["rle"])
        report.images += 1
        report.objects += count
        report.crowds += int(np.count_nonzero(objects["crowd"]))
        report.box_only += int(has_box_only(objects).sum())
        report.without_objects += count == 0
        report.most_objects = max(report.most_objects, count)
        if self._keep_ids:
            self.image_ids.append(record["image_id"])
        self._sizes[record["width"], record["height"]] += 1
        np.add.at(self._classes, objects["category"], 1)
        np.add.at(self._areas, np.digitize(objects["area"], AREAS), 1)
        if "label" in record:
            self._classes[record["label"]] += 1

    def _finish(self) -> None:
        """Completes the report after the last record."""
        report = self.report
        report.classes = dict(zip(self._names, self._classes.tolist(), strict=True))
        report.areas = dict(zip(("small", "medium", "large"), self._areas.tolist(), strict=True))
        if self._sizes:
            sizes = sorted(self._sizes, key=lambda size: (size[0] * size[1], size))
            middle = np.cumsum([self._sizes[size] for size in sizes]).searchsorted(
                (report.images + 1) // 2
            )
            chosen = {"smallest": sizes[0], "median": sizes[middle], "largest": sizes[-1]}
            report.sizes = {name: [int(side) for side in size] for name, size in chosen.items()}


def read_skipped(folder: str | os.PathLike, split: str) -> dict[str, dict[str, int]]:
    """Reads how many images and objects of a prepared split were skipped.

    Args:
      folder: prepared data. Other folders have skipped nothing.
      split: name of the split, or of a part of it.

    Returns:
      {"images": {reason: count}, "objects": {reason: count}}.

    Raises:
      ValueError: the report is damaged.
    """
    path = pathlib.Path(folder) / REPORT_FILE
    content = read_json_object(path, "prepare the data again") if path.is_file() else {}
    # Those of a divided split are listed once, under "train".
    name = "train" if content.get("held_out") else split.partition("[")[0]
    skipped: Any = content
    for key in ("splits", name, "skipped"):
        skipped = skipped.get(key) if isinstance(skipped, dict) else None
    found = {}
    for kind in ("images", "objects"):
        counts = skipped.get(kind) if isinstance(skipped, dict) else None
        items = counts.items() if isinstance(counts, dict) else ()
        found[kind] = {reason: count for reason, count in items if isinstance(count, int)}
    return found


def list_reasons(skipped: SkipCounts) -> list[str]:
    """Lists every counted reason with its first example, the most frequent first."""
    lines = []
    kinds = {
        "images": "skipped {count} images",
        "objects": "skipped {count} objects",
        "changed": "changed {count}",
        "suspicious": "looks wrong {count} times",
    }
    for kind, text in kinds.items():
        counts = getattr(skipped, kind).items()
        for reason, count in sorted(counts, key=lambda item: -item[1]):
            # The text of an UnusableError ends with its reason.
            example = skipped.examples[reason][0].removesuffix(f": {reason}")
            lines.append(f"{text.format(count=count)}: {reason}, such as {example}")
    return lines


def _describe_split(split: SplitReport) -> list[str]:
    """Describes the sizes of images and objects in a line each."""
    lines = []
    if split.sizes:
        smallest, median, largest = (f"{w} x {h}" for w, h in split.sizes.values())
        varied = f"{smallest} to {largest}, median {median}"
        lines.append(f"images of {smallest if smallest == largest else varied} pixels")
    if split.objects:
        areas = ", ".join(f"{count} {name}" for name, count in split.areas.items())
        lines.append(
            f"objects: {areas}; {split.crowds} crowds; at most {split.most_objects} in an image"
        )
        if split.box_only:
            lines.append(f"objects with a box and no mask: {split.box_only}")
        if split.without_objects:
            lines.append(f"images without objects: {split.without_objects}")
    return lines


def _make_class_table(splits: dict[str, SplitReport]) -> list[str]:
    """Makes a table with a row per class and a column per split."""
    names = list(dict.fromkeys(name for split in splits.values() for name in split.classes))
    if not names:
        return []
    rows = {name: [split.classes.get(name, 0) for split in splits.values()] for name in names}
    shown = sorted(names, key=lambda name: -sum(rows[name]))[:_MAX_CLASSES]
    has_objects = any(split.objects for split in splits.values())
    table = [["objects per class" if has_objects else "images per class", *splits]]
    table += [[make_printable(name)[:40], *map(str, rows[name])] for name in shown]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    ]
    if len(names) > len(shown):
        lines.append(f"and {len(names) - len(shown)} more classes in {REPORT_FILE}")
    if never := [name for name in names if not sum(rows[name])]:
        more = f" and {len(never) - 5} more" if len(never) > 5 else ""
        lines.append(f"classes without any: {make_printable(', '.join(never[:5]))}{more}")
    return lines
