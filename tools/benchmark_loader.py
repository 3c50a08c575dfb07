"""Measures how many images one core decodes and crops for a MAE, and how many the loader delivers.

    .venv/bin/python tools/benchmark.py loader --photographs path/to/jpegs
    .venv/bin/python tools/benchmark.py loader --source data/imagenet --only
    taskset -c 0 .venv/bin/python tools/benchmark.py loader                       # on one core

The photographs, by default those of scikit-image, become JPEGs of ImageNet's size (500 pixels on
the longer side, quality 95). They are read from a folder, from ArrayRecord, and from ArrayRecord
prepared with --short-side 256. A fourth source is synthetic scenes. Rates per core are images per
second of CPU time of all processes and threads. Every number is a median (best in brackets).
"""

import argparse
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

LONGER_SIDE, SHORT_SIDE, CANVAS = 500, 256, 224


def main(arguments: Sequence[str]) -> None:
    """Runs the benchmark and prints its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="PREPARED",
        help="another source: a prepared folder or tfds:NAME",
    )
    parser.add_argument("--split", default="train", help="split of --source (default train)")
    parser.add_argument("--only", action="store_true", help="measure only --source")
    parser.add_argument(
        "--count",
        type=int,
        default=150,
        help="number of images per source (default 150)",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--parts", nargs="+", choices=("core", "loader"), default=("core", "loader")
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--frame", type=int, default=0, help="data.crop.frame of the loader, 0 or 256 (default 0)"
    )
    args = parser.parse_args(arguments)
    # Sources are written to a folder that is deleted afterwards.
    with tempfile.TemporaryDirectory() as folder:
        sources = (
            {} if args.only else make_sources(pathlib.Path(folder), args.photographs, args.count)
        )
        sources |= {name: _open(name, args.split, args.count) for name in args.source}
        # Tables
        if "core" in args.parts:
            print_core_table(sources, args.repeats)
        if "loader" in args.parts:
            print_loader_table(sources, args)


class Folder:
    """Source whose records are JPEG files."""

    def __init__(self, paths: Sequence[pathlib.Path]):
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Mapping:
        return {"image": self.paths[index].read_bytes(), "image_id": self.paths[index].name}


def make_sources(
    folder: pathlib.Path, photographs: pathlib.Path | None, count: int
) -> dict[str, Sequence[Mapping]]:
    """Makes the four sources. All but the scenes hold the same photographs."""
    from segjax.data.prepare import prepare
    from segjax.data.storage import open_source
    from segjax.data.synthetic.scenes import SyntheticScenes

    write_jpegs(folder / "raw", photographs, count)
    raw = Folder(sorted((folder / "raw").iterdir()))
    print(f"{len(raw)} photographs, {_kilobytes(raw):.0f} kB each on average")
    sources: dict[str, Sequence[Mapping]] = {"folder": raw}
    for name, side in (
        ("ArrayRecord", None),
        (f"ArrayRecord, short side {SHORT_SIDE}", SHORT_SIDE),
    ):
        began = time.process_time()
        prepare("images", folder / "raw", folder / name, short_side=side, held_out=0)
        milliseconds = 1e3 * (time.process_time() - began) / len(raw)
        print(f"segjax prepare images, {name}: {milliseconds:.1f} ms per image")
        sources[name] = open_source(folder / name, "train")
    return sources | {
        f"synthetic, {SHORT_SIDE} pixels": SyntheticScenes("train", min(count, 50), size=SHORT_SIDE)
    }


def write_jpegs(folder: pathlib.Path, photographs: pathlib.Path | None, count: int) -> None:
    """Writes photographs as JPEGs of ImageNet's size."""
    folder.mkdir()
    for number, image in enumerate(_load_photographs(photographs, count)):
        scale = LONGER_SIDE / max(image.size)
        size = tuple(round(side * scale) for side in image.size)
        image.resize(size, Image.BICUBIC).save(folder / f"{number:04}.jpg", quality=95)


def _load_photographs(folder: pathlib.Path | None, count: int) -> list[Image.Image]:
    if folder is None:
        from segjax.data.synthetic.photographs import SPLITS, load_photographs

        return [
            Image.fromarray(pixels)
            for split in SPLITS
            for pixels in load_photographs(split).values()
        ][:count]
    from segjax.images.decoding import decode_image

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[
        :count
    ]
    if not paths:
        raise SystemExit(f"no *.jpg under {folder}")
    return [Image.fromarray(decode_image(path.read_bytes(), name=str(path))) for path in paths]


def _open(name: str, split: str, count: int) -> Sequence[Mapping]:
    from segjax.data.splits import FirstRecords, open_split

    return FirstRecords(open_split({"source": name, "train_split": split}, "train"), count)


def print_core_table(sources: Mapping[str, Sequence[Mapping]], repeats: int) -> None:
    """Prints the CPU time of reading, and of reading, decoding and cropping, per image."""
    from segjax.data.examples.crop import CropExample

    print(
        "\n| source | kB | read, ms | resized on the host, ms | images/s/core "
        "| resized on the device, ms | images/s/core |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, source in sources.items():
        read = measure_cpu(lambda record, rng: None, source, repeats)
        host, device = (
            measure_cpu(CropExample(CANVAS, frame=frame), source, repeats)
            for frame in (0, SHORT_SIDE)
        )
        cells = (
            f"{_format(times, '.2f')} | {_format([1e3 / ms for ms in times], '.0f', max)}"
            for times in (host, device)
        )
        print(
            f"| {name} | {_kilobytes(source):.0f} | {_format(read, '.2f')} | {' | '.join(cells)} |",
            flush=True,
        )


def measure_cpu(example: Callable, source: Sequence[Mapping], repeats: int) -> list[float]:
    """Measures the CPU time of an example in ms, in several passes after a first one."""
    times = []
    for repeat in range(repeats + 1):
        rng = np.random.default_rng(repeat)
        began = time.process_time()
        for index in range(len(source)):
            example(source[index], rng)
        times.append(1e3 * (time.process_time() - began) / len(source))
    return times[1:]


def _format(values: Sequence[float], form: str, best: Callable = min) -> str:
    return f"{np.median(values):{form}} ({best(values):{form}})"


def print_loader_table(sources: Mapping[str, Sequence[Mapping]], args: argparse.Namespace) -> None:
    """Prints the rates of batches of 64. The time of all processes and threads counts."""
    from segjax.data.examples.crop import CropExample
    from segjax.data.loader import make_loader

    print(
        f"\n| source, {args.threads} threads, frame {args.frame} | workers | images/s/core "
        "| images/s |"
    )
    print("|---|---|---|---|")
    example, images = CropExample(CANVAS, frame=args.frame), 4 * 64
    for name, source in sources.items():
        for workers in args.workers:
            per_core, total = [], []
            with make_loader(
                source, example, batch_size=64, workers=workers, threads=args.threads
            ) as batches:
                for _ in range(
                    4 + 2 * workers
                ):  # until processes have started and buffers are full
                    next(batches)
                for _ in range(args.repeats):
                    cpu, began = read_cpu_seconds(), time.perf_counter()
                    for _ in range(images // 64):
                        next(batches)
                    per_core.append(images / (read_cpu_seconds() - cpu))
                    total.append(images / (time.perf_counter() - began))
            print(
                f"| {name} | {workers} | {_format(per_core, '.0f', max)} "
                f"| {_format(total, '.0f', max)} |",
                flush=True,
            )


def read_cpu_seconds() -> float:
    """Returns the CPU time of this process and of its living descendants (Linux)."""
    parents, seconds = {}, {}
    # Parent and CPU time of every process
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    # All descendants
    family, added = set(), {os.getpid()}
    while added:
        family |= added
        added = {pid for pid, parent in parents.items() if parent in added} - family
    return sum(seconds.get(pid, 0) for pid in family)


def _kilobytes(source: Sequence[Mapping]) -> float:
    images = (source[index]["image"] for index in range(len(source)))
    return (
        float(
            np.mean(
                [image.nbytes if isinstance(image, np.ndarray) else len(image) for image in images]
            )
        )
        / 1e3
    )
