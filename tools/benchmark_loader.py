"""How many pictures one core decodes and crops for a masked autoencoder, and how many the whole loader delivers.

    .venv/bin/python tools/benchmark.py loader --photographs path/to/jpegs      # without: those that scikit-image ships
    .venv/bin/python tools/benchmark.py loader --source data/imagenet --source tfds:imagenet2012 --only
    taskset -c 0 .venv/bin/python tools/benchmark.py loader                       # on one core

The photographs become JPEGs of ImageNet's size (500 pixels on the longer side, quality 95), which are read from a
folder, from ArrayRecord, and from ArrayRecord prepared with --short-side 256; scenes are synthetic ones. Rates per core
are of CPU time: pictures / (seconds of all processes and threads). Every figure is a median (best in brackets).
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="PREPARED",
        help="also: a folder, tfds:NAME",
    )
    parser.add_argument("--split", default="train", help="of --source")
    parser.add_argument("--only", action="store_true", help="nothing but --source")
    parser.add_argument(
        "--count",
        type=int,
        default=150,
        help="photographs, and pictures of a --source, to go through",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--parts", nargs="+", choices=("core", "loader"), default=("core", "loader")
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--frame", type=int, default=0, help="of the loader: data.crop.frame, 0 or 256"
    )
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        sources = (
            {} if args.only else made_sources(pathlib.Path(folder), args.photographs, args.count)
        )
        sources |= {name: _opened(name, args.split, args.count) for name in args.source}
        if "core" in args.parts:
            one_core(sources, args.repeats)
        if "loader" in args.parts:
            whole_loader(sources, args)


class Folder:
    """JPEG files as records, as they lie."""

    def __init__(self, paths: Sequence[pathlib.Path]):
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Mapping:
        return {"image": self.paths[index].read_bytes(), "image_id": self.paths[index].name}


def made_sources(
    folder: pathlib.Path, photographs: pathlib.Path | None, count: int
) -> dict[str, Sequence[Mapping]]:
    """The four kinds of source of the same photographs (scenes aside), made in `folder`."""
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
        print(
            f"segjax prepare images, {name}: {1e3 * (time.process_time() - began) / len(raw):.1f} ms a picture"
        )
        sources[name] = open_source(folder / name, "train")
    return sources | {
        f"synthetic, {SHORT_SIDE} pixels": SyntheticScenes("train", min(count, 50), size=SHORT_SIDE)
    }


def write_jpegs(folder: pathlib.Path, photographs: pathlib.Path | None, count: int) -> None:
    folder.mkdir()
    for number, picture in enumerate(_photographs(photographs, count)):
        scale = LONGER_SIDE / max(picture.size)
        size = tuple(round(side * scale) for side in picture.size)
        picture.resize(size, Image.BICUBIC).save(folder / f"{number:04}.jpg", quality=95)


def _photographs(folder: pathlib.Path | None, count: int) -> list[Image.Image]:
    if folder is None:
        from segjax.data.synthetic.photographs import SPLITS, load_photographs

        return [
            Image.fromarray(pixels) for split in SPLITS for pixels in load_photographs(split).values()
        ][:count]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[
        :count
    ]
    if not paths:
        raise SystemExit(f"no *.jpg under {folder}")
    return [Image.open(path).convert("RGB") for path in paths]


def _opened(name: str, split: str, count: int) -> Sequence[Mapping]:
    from segjax.data.splits import FirstRecords, open_split

    return FirstRecords(open_split({"source": name, "train_split": split}, "train"), count)


def one_core(sources: Mapping[str, Sequence[Mapping]], repeats: int) -> None:
    """Reading, and reading + decoding + cropping, one picture after another."""
    from segjax.data.examples.crop import CropExample

    print(
        "\n| source | kB | read, ms | resized here, ms | images/s/core | resized on the device, ms | images/s/core |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, source in sources.items():
        read = milliseconds(lambda record, rng: None, source, repeats)
        here, there = (
            milliseconds(CropExample(CANVAS, frame=frame), source, repeats)
            for frame in (0, SHORT_SIDE)
        )
        cells = (
            f"{_said(taken, '.2f')} | {_said([1e3 / ms for ms in taken], '.0f', max)}"
            for taken in (here, there)
        )
        print(
            f"| {name} | {_kilobytes(source):.0f} | {_said(read, '.2f')} | {' | '.join(cells)} |",
            flush=True,
        )


def milliseconds(example: Callable, source: Sequence[Mapping], repeats: int) -> list[float]:
    """CPU time of an example in each of several passes over the source, after one that does not count."""
    taken = []
    for repeat in range(repeats + 1):
        rng = np.random.default_rng(repeat)
        began = time.process_time()
        for index in range(len(source)):
            example(source[index], rng)
        taken.append(1e3 * (time.process_time() - began) / len(source))
    return taken[1:]


def _said(values: Sequence[float], form: str, best: Callable = min) -> str:
    return f"{np.median(values):{form}} ({best(values):{form}})"


def whole_loader(sources: Mapping[str, Sequence[Mapping]], args: argparse.Namespace) -> None:
    """Batches of 64; the time of all processes and threads counts."""
    from segjax.data.examples.crop import CropExample
    from segjax.data.loader import make_loader

    print(
        f"\n| source, {args.threads} threads, frame {args.frame} | workers | images/s/core | images/s |"
    )
    print("|---|---|---|---|")
    example, images = CropExample(CANVAS, frame=args.frame), 4 * 64
    for name, source in sources.items():
        for workers in args.workers:
            rates, whole = [], []
            with make_loader(
                source, example, batch_size=64, workers=workers, threads=args.threads
            ) as batches:
                for _ in range(4 + 2 * workers):  # processes have started, buffers are full
                    next(batches)
                for _ in range(args.repeats):
                    cpu, began = cpu_seconds(), time.perf_counter()
                    for _ in range(images // 64):
                        next(batches)
                    rates.append(images / (cpu_seconds() - cpu))
                    whole.append(images / (time.perf_counter() - began))
            print(
                f"| {name} | {workers} | {_said(rates, '.0f', max)} | {_said(whole, '.0f', max)} |",
                flush=True,
            )


def cpu_seconds() -> float:
    """Of this process and all that it has started and that are alive (Linux)."""
    parents, seconds = {}, {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        seconds[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    ours, news = set(), {os.getpid()}
    while news:
        ours |= news
        news = {pid for pid, parent in parents.items() if parent in news} - ours
    return sum(seconds.get(pid, 0) for pid in ours)


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
