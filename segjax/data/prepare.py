"""Raw files -> prepared data: every record checked and counted, the whole moved into place when complete."""

import dataclasses
import difflib
import itertools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from segjax.data import storage
from segjax.data.records import Record, validate_record
from segjax.data.sources.bsds500 import Bsds500
from segjax.data.sources.cityscapes import Cityscapes
from segjax.data.sources.coco import CocoFolder
from segjax.data.sources.images import ImageFolders
from segjax.data.sources.label_maps import LabelMaps
from segjax.data.sources.lvis import LvisFolder
from segjax.data.sources.raw import RawSource, SkipCounts
from segjax.data.sources.sa1b import Sa1b
from segjax.data.sources.scenes import SyntheticSource
from segjax.data.threads import map_in_order
from segjax.images.encoding import encode_image, encode_png
from segjax.images.transforms import crop_and_resize, open_image
from segjax.masks import RecordError, compute_mask_box, decode_mask, encode_mask

REPORT_FILE = "report.json"


class EmptyDatasetError(ValueError):
    """A split has not one usable record; the message says what was skipped and why."""


def _nuclei(raw_dir: str | pathlib.Path, **options: Any) -> LabelMaps:
    return LabelMaps(raw_dir, **({"category": "nucleus"} | options))


SOURCES: dict[str, Callable[..., RawSource]] = {
    "bsds500": Bsds500,
    "cityscapes": Cityscapes,
    "coco": CocoFolder,
    "images": ImageFolders,
    "label_maps": LabelMaps,
    "lvis": LvisFolder,
    "nuclei": _nuclei,
    "sa1b": Sa1b,
    "synthetic": SyntheticSource,
}


@dataclasses.dataclass
class SplitReport:
    """Counts of one prepared split."""

    images: int = 0
    objects: int = 0
    seconds: float = 0.0
    skipped: SkipCounts = dataclasses.field(default_factory=SkipCounts)


@dataclasses.dataclass
class Report:
    """What `prepare` wrote and what it left out; `str(report)` is for people, report.json holds the same."""

    source: str
    out: str
    splits: dict[str, SplitReport] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.source} -> {self.out}"]
        for name, split in self.splits.items():
            objects = f", {split.objects} objects" if split.objects else ""
            lines.append(f"  {name}: {split.images} images{objects}, {split.seconds:.1f} s")
            for kind in ("images", "objects"):
                for reason, count in sorted(
                    getattr(split.skipped, kind).items(), key=lambda item: -item[1]
                ):
                    lines.append(
                        f"    skipped {count} {kind}: {reason}, such as {split.skipped.examples[reason][0]}"
                    )
        return "\n".join(lines)


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
    """Turns raw files into prepared data at `out`, to be read with `open_source(out, split)`.

    Args:
      source_name: one of SOURCES. raw_dir: folder of the raw files; None for the synthetic source.
      splits: which to prepare (default: all there are). limit: at most so many images of each split.
      short_side: larger images and their masks are shrunk until the shorter side has so many pixels.
      keep_empty: keep images without objects (detection needs them, prompts cannot use them); those of a source that
        has no objects at all are kept in any case.
      overwrite: replace an earlier preparation at `out`.
      options: the source's own, such as `difficulty` of synthetic scenes.

    What is broken is skipped and counted in the report. Raises ValueError for an unknown source or split,
    EmptyDatasetError when a split ends up without images, FileNotFoundError for missing raw folders,
    FileExistsError when `out` is taken. Whatever happens, `out` is never half-written.
    """
    raw = _open_raw(source_name, raw_dir, options)
    names = _chosen_splits(splits, raw, raw_dir or source_name)
    if limit is not None and limit < 1:
        raise ValueError(
            f"limit is {limit}; expected at least 1 image of each split, or None for all"
        )
    out = pathlib.Path(out)
    _check_target(out, overwrite)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    keep_empty = keep_empty or not raw.has_objects
    report = Report(source_name, str(out), {name: SplitReport() for name in names})
    readers = {
        name: lambda name=name: _usable(
            raw, name, report.splits[name], limit, short_side, keep_empty
        )
        for name in names
    }
    try:
        fields = dict(optional=raw.optional, keypoints=raw.keypoints, has_objects=raw.has_objects)
        storage.write_records(partial, readers, **fields)
        storage.write_info(partial, _info(raw, report))
        (partial / REPORT_FILE).write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
        _move_into_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def _open_raw(
    name: str, raw_dir: str | pathlib.Path | None, options: Mapping[str, Any]
) -> RawSource:
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown data source {name!r}; {hint}the sources are {', '.join(sorted(SOURCES))}"
        )
    if raw_dir is None and name != "synthetic":
        raise ValueError(f"the source {name!r} needs the folder of its raw files, got none")
    return SOURCES[name](raw_dir, **options)


def _chosen_splits(
    splits: str | Sequence[str] | None, raw: RawSource, where: object
) -> tuple[str, ...]:
    names = (
        raw.splits if splits is None else ((splits,) if isinstance(splits, str) else tuple(splits))
    )
    unknown = [name for name in names if name not in raw.splits]
    if unknown:
        raise ValueError(f"{where} has no split {unknown[0]!r}; it has {', '.join(raw.splits)}")
    return names


def _check_target(out: pathlib.Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / storage.INFO_FILE).is_file():
        raise FileExistsError(
            f"{out} exists and is not prepared data, so it is not touched; choose another place"
        )
    if not overwrite:
        raise FileExistsError(
            f"{out} already holds prepared data; pass overwrite=True (--overwrite) to replace it"
        )


def _move_into_place(partial: pathlib.Path, out: pathlib.Path) -> None:
    old = partial.with_name(f".{out.name}.replaced-{os.getpid()}")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _usable(
    raw: RawSource,
    split: str,
    report: SplitReport,
    limit: int | None,
    short_side: int | None,
    keep_empty: bool,
) -> Iterator[Record]:
    start = time.perf_counter()
    threads = None if limit is None else 1  # nothing is counted of pictures that are not wanted
    whole = _checked(
        raw.records(split, report.skipped), report.skipped, short_side, keep_empty, threads
    )
    for record in itertools.islice(whole, limit):
        report.images += 1
        report.objects += len(record["objects"]["rle"])
        yield record
    report.seconds = round(time.perf_counter() - start, 3)
    if report.images == 0:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in report.skipped.images.items())
            or "nothing found"
        )
        raise EmptyDatasetError(f"split {split!r} has no usable image: {reasons}")


def _checked(
    records: Iterator[Record],
    skipped: SkipCounts,
    short_side: int | None,
    keep_empty: bool,
    threads: int | None,
) -> Iterator[Record]:
    seen: set[str] = set()

    def checked(record: Record) -> tuple[Record | RecordError, SkipCounts]:
        lost = SkipCounts()  # of this record, for others are being checked at the same time
        try:
            if not isinstance(record["image"], bytes):
                record = record | {"image": encode_png(record["image"])}
            if short_side is not None:
                record = shrink_to_short_side(record, short_side, lost)
            validate_record(record)
            return record, lost
        except RecordError as error:
            return error, lost

    for record, lost in map_in_order(checked, records, threads):
        skipped.merge(lost)
        if isinstance(record, RecordError):
            skipped.add_image(record.reason, str(record))
        elif record["image_id"] in seen:
            skipped.add_image("image id is taken by an earlier image", record["image_id"])
        elif not keep_empty and not record["objects"]["rle"]:
            skipped.add_image("image has no objects", record["image_id"])
        else:
            seen.add(record["image_id"])
            yield record


def _info(raw: RawSource, report: Report) -> storage.PreparedInfo:
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
        # Few sources have these.
        tuple(getattr(raw, "keypoint_names", ())),
        tuple(getattr(raw, "frequencies", ())),
    )


def shrink_to_short_side(record: Record, short_side: int, skipped: SkipCounts) -> Record:
    """The record with its shorter side at most `short_side` px, aspect kept; unchanged if it already is.

    The picture is filtered bilinearly with antialiasing and encoded as it was, see `encode_image`; a mask pixel is
    set where half its area or more was. Boxes and areas follow the new masks; annotated areas scale. Objects that
    vanish are counted in `skipped`.
    """
    if short_side < 1:
        raise ValueError(f"short_side is {short_side}; expected at least 1 px")
    height, width = record["height"], record["width"]
    if min(height, width) <= short_side:
        return record
    scale = short_side / min(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    objects, kept = record["objects"], []
    boxes, rles = [], []
    for index, rle in enumerate(objects["rle"]):
        mask = _shrink_mask(decode_mask(rle, height, width), size)
        if not mask.any():
            skipped.add_object(
                "object vanishes at this short_side",
                f"{record['image_id']}, object {objects['id'][index]}",
            )
            continue
        kept.append(index)
        boxes.append(compute_mask_box(mask))
        rles.append(encode_mask(mask))
    shrunk = {name: value[kept] for name, value in objects.items() if name != "rle"}
    ratio = np.array([size[1] / width, size[0] / height], np.float32)
    shrunk["area"] = (shrunk["area"] * ratio.prod()).astype(np.float32)
    shrunk["box"] = np.array(boxes, np.float32).reshape(-1, 4)
    if "keypoints" in shrunk:
        shrunk["keypoints"] = np.concatenate(
            [shrunk["keypoints"][..., :2] * ratio, shrunk["keypoints"][..., 2:]], -1
        )
    if "annotated_box" in shrunk:
        shrunk["annotated_box"] = shrunk["annotated_box"] * np.tile(ratio, 2)
    image = _shrink_picture(record["image"], size, f"image {record['image_id']!r}")
    return record | {
        "image": image,
        "height": size[0],
        "width": size[1],
        "objects": shrunk | {"rle": rles},
    }


def _shrink_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    soft = Image.fromarray(mask.astype(np.float32)).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(soft) >= 0.5


def _shrink_picture(image: bytes, size: tuple[int, int], name: str) -> bytes:
    with open_image(image, name) as picture:
        small = crop_and_resize(
            picture,
            (0, 0, picture.height, picture.width),
            size,
            Image.Resampling.BILINEAR,
            reduced=True,
        )
        return encode_image(small, picture.format)
