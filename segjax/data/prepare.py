"""Preparing data: raw files become ArrayRecord files with one schema, checked record by record."""

import dataclasses
import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from segjax.data import storage, writer
from segjax.data.preparation.held_out import check_single_split, choose_held_out, read_parts
from segjax.data.preparation.options import open_raw
from segjax.data.preparation.shrink import shrink_to_short_side
from segjax.data.preparation.workspace import Workspace
from segjax.data.records import Record, check_categories, validate_record
from segjax.data.report import REPORT_FILE, Report, SplitCounter, SplitReport, list_reasons
from segjax.data.sources.raw import RawSource, SkipCounts
from segjax.data.threads import map_in_order
from segjax.files import write_json
from segjax.images.encoding import encode_png
from segjax.masks import RecordError

_NO_STUFF = "map of stuff is left out: prepared data stores objects alone"


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
      options: of the source, such as `difficulty` of "synthetic". Every source has `held_out`:
        the share of a single split that becomes "val", chosen by the ids of the images.

    Returns:
      Counts of the images and objects that were written and skipped. `str(report)` is a summary,
      and `out`/report.json holds the same.

    Raises:
      ValueError: unknown source, split or option, or an invalid value.
      EmptyDatasetError: a split has no usable image.
      FileNotFoundError: the raw folder is missing or has another layout.
      FileExistsError: `out` exists, or another process is preparing it.
    """
    raw, share = open_raw(source_name, raw_dir, options)
    names = _choose_splits(splits, raw, raw_dir or source_name)
    if share:
        check_single_split(names, raw_dir or source_name)
    if limit is not None and limit < 1:
        raise ValueError(
            f"limit is {limit}; expected at least 1 image of each split, or None for all"
        )
    out = pathlib.Path(out)
    read = functools.partial(
        _read_split,
        raw,
        limit=limit,
        short_side=short_side,
        keep_empty=keep_empty or not raw.has_objects,
    )
    report = Report(source_name, str(out), {name: SplitReport() for name in names})
    with Workspace(out, overwrite) as workspace:
        if share:
            _write_divided(raw, read, share, report, workspace)
        else:
            counters = {name: SplitCounter(report.splits[name], raw.categories) for name in names}
            readers = {name: lambda name=name: read(name, counters[name]) for name in names}
            _write(raw, readers, report, workspace.data)
        write_json(workspace.data / REPORT_FILE, dataclasses.asdict(report), sort_keys=False)
        workspace.finish()
    return report


def _write(
    raw: RawSource,
    readers: Mapping[str, Callable[[], Iterator[Record]]],
    report: Report,
    folder: pathlib.Path,
) -> None:
    """Writes the records of each split to a prepared folder."""
    fields = dict(optional=raw.optional, keypoints=raw.keypoints, has_objects=raw.has_objects)
    writer.write_records(folder, readers, **fields)
    writer.write_info(folder, _make_info(raw, report))


def _write_divided(
    raw: RawSource,
    read: Callable[[str, SplitCounter], Iterator[Record]],
    share: float,
    report: Report,
    workspace: Workspace,
) -> None:
    """Writes a single split, and then its images again as "train" and "val".

    Only then is it known which images are usable, so that the share is exact.
    """
    (name,) = report.splits
    counter = SplitCounter(report.splits[name], raw.categories, keep_ids=True)
    _write(raw, {name: lambda: read(name, counter)}, report, workspace.spare)
    whole = report.splits[name]
    # Divide the usable images
    parts = choose_held_out(counter.image_ids, share, f"the split {name!r}")
    source = storage.open_source(workspace.spare, name)
    report.splits = {part: SplitReport() for part in parts}
    report.splits["train"].skipped = whole.skipped
    report.splits["train"].seconds = whole.seconds
    report.held_out = {"from": name, "share": share}
    counters = {part: SplitCounter(report.splits[part], raw.categories) for part in parts}
    readers = {
        part: lambda part=part, make=make: counters[part].count(make())
        for part, make in read_parts(source, parts).items()
    }
    _write(raw, readers, report, workspace.data)


def _choose_splits(
    splits: str | Sequence[str] | None, raw: RawSource, where: object
) -> tuple[str, ...]:
    """Returns the names of the splits to prepare. Raises ValueError for an unknown one."""
    if splits is None:
        return raw.splits
    names = (splits,) if isinstance(splits, str) else tuple(splits)
    unknown = [name for name in names if name not in raw.splits]
    if unknown:
        is_single = len(raw.splits) == 1
        hint = "; held_out=0.1 (--option held_out=0.1) divides it into train and val" * is_single
        raise ValueError(
            f"{where} has no split {unknown[0]!r}; it has {', '.join(raw.splits)}{hint}"
        )
    return names


def _read_split(
    raw: RawSource,
    split: str,
    counter: SplitCounter,
    *,
    limit: int | None,
    short_side: int | None,
    keep_empty: bool,
) -> Iterator[Record]:
    """Yields the usable records of a split, and counts them."""
    start = time.perf_counter()
    # Threads read ahead. With a limit they would count images that nobody asked for.
    threads = None if limit is None else 1
    report, categories = counter.report, len(raw.categories)
    records = raw.records(split, report.skipped)
    usable = _check_records(records, report.skipped, short_side, keep_empty, threads, categories)
    yield from counter.count(itertools.islice(usable, limit))
    report.seconds = round(time.perf_counter() - start, 3)
    if report.images == 0:
        reasons = "; ".join(list_reasons(report.skipped))
        raise EmptyDatasetError(
            f"split {split!r} has no usable image: {reasons or 'nothing found'}"
        )


def _check_records(
    records: Iterator[Record],
    skipped: SkipCounts,
    short_side: int | None,
    keep_empty: bool,
    threads: int | None,
    categories: int,
) -> Iterator[Record]:
    """Encodes, shrinks and validates records in threads. Yields the usable ones in order."""
    seen: set[str] = set()

    def check(record: Record) -> tuple[Record | RecordError, SkipCounts]:
        # Other records are checked at the same time, so each counts for itself.
        own = SkipCounts()
        try:
            if not isinstance(record["image"], bytes):
                record = record | {"image": encode_png(record["image"])}
            if "stuff" in record:
                own.add_change(_NO_STUFF, str(record["image_id"]))
                record = {name: value for name, value in record.items() if name != "stuff"}
            if short_side is not None:
                record = shrink_to_short_side(record, short_side, own)
            validate_record(record)
            check_categories(record, categories)
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
