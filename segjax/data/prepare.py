"""Preparing data: raw files become ArrayRecord files with one schema, checked record by record."""

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segjax.data import storage, writer
from segjax.data.records import Record, validate_record
from segjax.data.report import REPORT_FILE, Report, SplitReport
from segjax.data.shrink import shrink_to_short_side
from segjax.data.sources.raw import RawSource, SkipCounts
from segjax.data.threads import map_in_order
from segjax.images.encoding import encode_png
from segjax.masks import RecordError
from segjax.registry import SOURCES


class EmptyDatasetError(ValueError):
    """Error for a split without a single usable record. The message lists the reasons."""


def prepare(
    source_name: str,
    raw_dir: str | pathlib.Path | None,
    out: str | pathlib.Path,
    *,
    splits: str | Sequence[str] | None = None,
    limit: int | None = None,
    short_side: int | None = None,
    keep_empty: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Report:
    """Prepares raw files for training and evaluation.

    Every record is checked. Broken images and objects are skipped, and the report counts them
    with the reason and a first example of each. The folder `out` appears complete or not at all.
    Experiments read it as `config.data.source`, and programs with
    `segjax.data.storage.open_source(out, split)`.

    Example:
      >>> import segjax
      >>> report = segjax.prepare("synthetic", None, "data/scenes", splits="train", count=8)
      >>> report.splits["train"].images
      8
      >>> from segjax.data.storage import open_source
      >>> record = open_source("data/scenes", "train")[0]  # see segjax.data.records

    Args:
      source_name: a name in `segjax.registry.SOURCES`, such as "coco". To add your own, see
        `segjax.data.sources.raw.RawSource`.
      raw_dir: folder of the raw files. None for "synthetic", which reads none.
      out: folder to write.
      splits: names of the splits to prepare. None prepares all.
      limit: largest number of images of each split. None is no limit.
      short_side: shrinks larger images and their masks until the shorter side has this many
        pixels. None keeps them.
      keep_empty: keep images without objects. Detection needs them, and prompts cannot use them.
        Images of a source without any objects are always kept.
      overwrite: replace earlier prepared data at `out`.
      options: of the source, such as `difficulty` of "synthetic".

    Returns:
      Counts of the images and objects that were written and skipped. `str(report)` is a summary,
      and `out`/report.json holds the same.

    Raises:
      ValueError: unknown source or split, or invalid options.
      EmptyDatasetError: a split has no usable image.
      FileNotFoundError: the raw folder is missing or has another layout.
      FileExistsError: `out` exists.
    """
    raw = _open_raw(source_name, raw_dir, options)
    names = _choose_splits(splits, raw, raw_dir or source_name)
    if limit is not None and limit < 1:
        raise ValueError(
            f"limit is {limit}; expected at least 1 image of each split, or None for all"
        )
    out = pathlib.Path(out)
    _check_target(out, overwrite)
    keep_empty = keep_empty or not raw.has_objects
    report = Report(source_name, str(out), {name: SplitReport() for name in names})
    readers = {
        name: lambda name=name: _read_split(
            raw, name, report.splits[name], limit, short_side, keep_empty
        )
        for name in names
    }
    # Everything goes to a temporary folder beside `out`, which is renamed when it is complete.
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        fields = dict(optional=raw.optional, keypoints=raw.keypoints, has_objects=raw.has_objects)
        writer.write_records(partial, readers, **fields)
        writer.write_info(partial, _make_info(raw, report))
        (partial / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
        _move_into_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _open_raw(
    name: str, raw_dir: str | pathlib.Path | None, options: Mapping[str, Any]
) -> RawSource:
    """Opens the raw files with the reader that is registered under a name."""
    reader = SOURCES.get(name)
    if raw_dir is None and name != "synthetic":
        raise ValueError(f"the source {name!r} needs the folder of its raw files, got none")
    return reader(raw_dir, **options)


def _choose_splits(
    splits: str | Sequence[str] | None, raw: RawSource, where: object
) -> tuple[str, ...]:
    """Returns the names of the splits to prepare. Raises ValueError for an unknown one."""
    if splits is None:
        return raw.splits
    names = (splits,) if isinstance(splits, str) else tuple(splits)
    unknown = [name for name in names if name not in raw.splits]
    if unknown:
        raise ValueError(f"{where} has no split {unknown[0]!r}; it has {', '.join(raw.splits)}")
    return names


def _check_target(out: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError unless `out` may be written."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / storage.INFO_FILE).is_file():
        raise FileExistsError(
            f"{out} exists and is not prepared data, so it is not touched; choose another folder"
        )
    if not overwrite:
        raise FileExistsError(
            f"{out} already holds prepared data; pass overwrite=True (--overwrite) to replace it"
        )


def _move_into_place(partial: pathlib.Path, out: pathlib.Path) -> None:
    """Renames a complete folder to `out`, and removes the one that it replaces."""
    old = partial.with_name(f".{out.name}.replaced-{os.getpid()}")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _read_split(
    raw: RawSource,
    split: str,
    report: SplitReport,
    limit: int | None,
    short_side: int | None,
    keep_empty: bool,
) -> Iterator[Record]:
    """Yields the usable records of a split, and counts them in the report."""
    start = time.perf_counter()
    # Threads read ahead. With a limit they would count images that nobody asked for.
    threads = None if limit is None else 1
    records = raw.records(split, report.skipped)
    usable = _check_records(records, report.skipped, short_side, keep_empty, threads)
    for record in itertools.islice(usable, limit):
        report.images += 1
        report.objects += len(record["objects"]["rle"])
        yield record
    report.seconds = round(time.perf_counter() - start, 3)
    if report.images == 0:
        reasons = ", ".join(f"{n} {reason}" for reason, n in report.skipped.images.items())
        raise EmptyDatasetError(
            f"split {split!r} has no usable image: {reasons or 'nothing found'}"
        )


def _check_records(
    records: Iterator[Record],
    skipped: SkipCounts,
    short_side: int | None,
    keep_empty: bool,
    threads: int | None,
) -> Iterator[Record]:
    """Encodes, shrinks and validates records in threads. Yields the usable ones in order."""
    seen: set[str] = set()

    def check(record: Record) -> tuple[Record | RecordError, SkipCounts]:
        # Other records are checked at the same time, so each counts for itself.
        own = SkipCounts()
        try:
            if not isinstance(record["image"], bytes):
                record = record | {"image": encode_png(record["image"])}
            if short_side is not None:
                record = shrink_to_short_side(record, short_side, own)
            validate_record(record)
            return record, own
        except RecordError as error:
            return error, own

    for record, own in map_in_order(check, records, threads):
        skipped.merge(own)
        if isinstance(record, RecordError):
            skipped.add_image(record.reason, str(record))
        elif record["image_id"] in seen:
            skipped.add_image("image id is taken by an earlier image", record["image_id"])
        elif not keep_empty and not record["objects"]["rle"]:
            skipped.add_image("image has no objects", record["image_id"])
        else:
            seen.add(record["image_id"])
            yield record


def _make_info(raw: RawSource, report: Report) -> storage.PreparedInfo:
    """Returns the content of info.json."""
    counts = {
        name: {"images": split.images, "objects": split.objects}
        for name, split in report.splits.items()
    }
    return storage.PreparedInfo(
        report.source,
        counts,
        tuple(raw.categories),
        tuple(raw.category_ids),
        tuple(raw.optional),
        raw.keypoints,
        # Few sources have these two.
        tuple(getattr(raw, "keypoint_names", ())),
        tuple(getattr(raw, "frequencies", ())),
    )
