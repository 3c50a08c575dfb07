"""Automatic masks for any number of images (SAM, section 4, fully automatic stage).

Each shard becomes one tar file in SA-1B's layout. Its content depends on the images and the model
alone, so a rerun after a crash gives the same bytes. No process waits for another one.
"""

import concurrent.futures
import dataclasses
import io
import json
import pathlib
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from segjax.engine.claims import claim
from segjax.engine.manifest import Shard
from segjax.files import write_atomic
from segjax.images.decoding import decode_image
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator

# SAM, appendix B: 32 x 32 clicks, 16 x 16 on 2 x 2 crops and 8 x 8 on 4 x 4 crops, and its filters
SETTINGS: dict[str, Any] = dict(
    points_per_side=32,
    crop_n_layers=2,
    crop_n_points_downscale_factor=2,
    pred_iou_thresh=0.88,
    stability_score_thresh=0.95,
    box_nms_thresh=0.7,
    crop_nms_thresh=0.7,
    min_mask_region_area=100,
    max_mask_area=0.95,
    output_mode="coco_rle",
)


@dataclasses.dataclass
class ShardProgress:
    """What a process did.

    Attributes:
      shards: shards that it finished.
      skipped: shards that were finished before, or that another process works on.
      images: images in its shards.
      masks: masks of them.
      broken: images that could not be read.
      seconds: time by part: "decode" (waiting for images), "masks" (network, filters, run
        lengths) and "write".
    """

    shards: int = 0
    skipped: int = 0
    images: int = 0
    masks: int = 0
    broken: int = 0
    seconds: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(("decode", "masks", "write"), 0.0)
    )


def generate_shards(
    generator: SamAutomaticMaskGenerator,
    folder: pathlib.Path,
    out: pathlib.Path,
    shards: Sequence[Shard],
    *,
    images_per_batch: int = 1,
    with_images: bool = False,
    report: Callable[[Shard, ShardProgress], None] = lambda shard, progress: None,
) -> ShardProgress:
    """Writes the masks of shards, each complete or not at all.

    A finished file is skipped. One that another live process works on is skipped too.

    Args:
      generator: of the masks, with `output_mode` "coco_rle".
      folder: folder of the images.
      out: folder of the results: NAME.tar, and NAME.errors.jsonl for images that cannot be read.
      shards: in the order of work.
      images_per_batch: images whose embeddings are computed in one call.
      with_images: put the image files beside the masks, as SA-1B does.
      report: called after each shard.
    """
    progress = ShardProgress()
    for shard in shards:
        target = out / f"{shard.name}.tar"
        if target.exists():
            progress.skipped += 1
            continue
        with claim(out / ".claims" / shard.name) as mine:
            # It may have been finished between the two questions
            if not mine or target.exists():
                progress.skipped += 1
                continue
            members, errors = _segment_shard(
                generator, folder, shard, images_per_batch, with_images, progress
            )
            # The list of errors comes first: the archive says that the shard is finished
            start = time.monotonic()
            lines = "".join(json.dumps(row, sort_keys=True) + "\n" for row in errors)
            if errors:
                write_atomic(out / f"{shard.name}.errors.jsonl", lines)
            write_atomic(target, _pack(members))
            progress.seconds["write"] += time.monotonic() - start
            progress.shards += 1
        report(shard, progress)
    return progress


def _segment_shard(
    generator: SamAutomaticMaskGenerator,
    folder: pathlib.Path,
    shard: Shard,
    images_per_batch: int,
    with_images: bool,
    progress: ShardProgress,
) -> tuple[list[tuple[str, bytes]], list[dict[str, str]]]:
    """Returns the files of a shard by name, and the images that cannot be read."""
    members: list[tuple[str, bytes]] = []
    errors: list[dict[str, str]] = []
    batch: list[tuple[int, str, bytes, np.ndarray]] = []

    def flush() -> None:
        """Segments the images of a batch."""
        start = time.monotonic()
        found = generator.generate([row[3] for row in batch]) if batch else []
        for (number, file, data, image), records in zip(batch, found, strict=True):
            name = f"sa_{number}"
            members.append((f"{name}.json", _describe(number, file, image, records)))
            if with_images:
                members.append((name + pathlib.PurePosixPath(file).suffix.lower(), data))
            progress.masks += len(records)
        progress.images += len(batch)
        progress.seconds["masks"] += time.monotonic() - start
        batch.clear()

    start = time.monotonic()
    for number, file, data, image in _read_ahead(folder, shard):
        progress.seconds["decode"] += time.monotonic() - start
        if isinstance(image, str):
            errors.append({"file": file, "reason": image})
            progress.broken += 1
        else:
            batch.append((number, file, data, image))
        if len(batch) == images_per_batch:
            flush()
        start = time.monotonic()
    flush()
    return members, errors


def _read_ahead(
    folder: pathlib.Path, shard: Shard
) -> Iterator[tuple[int, str, bytes, np.ndarray | str]]:
    """Yields number, name, bytes and pixels of each image, read by other threads.

    The pixels are the reason as text if the image cannot be read.
    """

    def read(file: str) -> tuple[bytes, np.ndarray | str]:
        """Reads one image. Masks refer to the pixels as they are stored."""
        try:
            data = (folder / file).read_bytes()
            return data, decode_image(data, name=file, notes=[])
        except (OSError, ValueError) as error:
            return b"", f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting: list[Any] = []
        files = iter(enumerate(shard.files))
        for index, file in files:
            waiting.append((index, file, pool.submit(read, file)))
            if len(waiting) == 4:
                index, file, future = waiting.pop(0)
                yield shard.first + index + 1, file, *future.result()
        for index, file, future in waiting:
            yield shard.first + index + 1, file, *future.result()


def _describe(number: int, file: str, image: np.ndarray, records: Sequence[dict]) -> bytes:
    """Returns the JSON of an image in SA-1B's format."""
    height, width = image.shape[:2]
    suffix = pathlib.PurePosixPath(file).suffix.lower()
    about = {"image_id": number, "width": width, "height": height}
    about |= {"file_name": f"sa_{number}{suffix}", "source": file}
    rows = [{"id": index, **record} for index, record in enumerate(records, 1)]
    return json.dumps({"image": about, "annotations": rows}, sort_keys=True).encode()


def _pack(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Returns a tar archive that depends on its files alone: no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
