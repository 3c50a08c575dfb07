"""Measure edge maps of any method with the BSDS benchmark: ODS, OIS, AP and R50.

  segjax eval edges --edges out/edges --truth BSDS500/groundTruth/val --out out/benchmark
  segjax eval edges --edges out/edges --truth BSDS500/groundTruth/val --thresholds 25 --out out/b

--edges has one PNG per image, of the size of the image: 0 is no edge, the largest value of its type
(255 or 65535) a sure one. The files are called as those of --truth, which are MATLAB files with the
boundaries of several annotators (groundTruth, Boundaries). Edge maps should be thin: --nms applies
the benchmark's usual non-maximum suppression first.

Files in DIR:
  edges.json   {"ODS", "OIS", "AP", "R50", "images", "thresholds"}, and the threshold of ODS
  edges.png    precision over recall
  counts/      counts of each image. The same command goes on after an interruption.

With 99 thresholds, an image of 481 x 321 pixels takes several seconds on one core.
"""

import argparse
import concurrent.futures
import hashlib
import io
import multiprocessing
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from segjax.files import check_writable, write_atomic, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("--edges", required=True, metavar="DIR", help="folder of edge maps, PNG")
    parser.add_argument("--truth", required=True, metavar="DIR", help="folder of .mat files")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--thresholds", type=int, default=99, metavar="N", help="number of thresholds (default: 99)"
    )
    parser.add_argument(
        "--nms", action="store_true", help="thin the edge maps by non-maximum suppression first"
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="processes (default: one per core)"
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Counts image by image in several processes, writes the files and prints the scores.

    You can skip this function: the math is in `segjax.evaluation.zero_shot.edge_scores`.

    Raises:
      ValueError: no image, edge maps that are missing or of another size, or a number out of range.
      OSError: a file that cannot be read or written.
    """
    if not 1 <= args.thresholds <= 255:
        raise ValueError(f"--thresholds {args.thresholds}: expected 1 to 255")
    pairs, unused = pair_files(pathlib.Path(args.edges), pathlib.Path(args.truth))
    out = pathlib.Path(args.out)
    check_writable(out)
    (out / "counts").mkdir(parents=True, exist_ok=True)
    processes = args.processes or os.cpu_count() or 1
    jobs = [(*pair, out / "counts", args.thresholds, args.nms) for pair in pairs]
    counts = []
    # A fresh interpreter for each process: threads of this one would not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(processes, len(jobs)), mp_context=context
    ) as pool:
        for number, found in enumerate(pool.map(count_file, jobs), 1):
            counts.append(found)
            if number % 10 == 0:
                print(f"{number} of {len(jobs)} images", flush=True)
    if unused:
        print(f"{len(unused)} edge maps have no ground truth and are left out, such as {unused[0]}")

    from segjax.evaluation.zero_shot.edge_scores import list_thresholds, score_edges
    from segjax.viz.edge_curve import plot_edge_curve

    scores = score_edges(counts, list_thresholds(args.thresholds))
    result = {
        **{"ODS": scores.ods, "OIS": scores.ois, "AP": scores.ap, "R50": scores.r50},
        **{"images": len(counts), "thresholds": args.thresholds, "threshold": scores.threshold},
    }
    plot_edge_curve(scores.recall, scores.precision, scores.ods, out / "edges.png")
    write_json(out / "edges.json", result)
    print("  ".join(f"{name} {result[name]:.4f}" for name in ("ODS", "OIS", "AP", "R50")))
    print(f"{out / 'edges.json'}  {len(counts)} images")
    return 0


def pair_files(
    edges: pathlib.Path, truth: pathlib.Path
) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], list[str]]:
    """Pairs edge maps with ground truth by their names.

    Returns:
      Pairs (edge map, .mat file), and the names of edge maps without ground truth.

    Raises:
      ValueError: a folder without files, or ground truth without an edge map.
    """
    for folder, suffix in ((edges, ".png"), (truth, ".mat")):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; expected one of {suffix} files")
        if not any(folder.glob(f"*{suffix}")):
            raise ValueError(f"{folder} has no {suffix} file")
    maps = {path.stem: path for path in sorted(edges.glob("*.png"))}
    files = {path.stem: path for path in sorted(truth.glob("*.mat"))}
    if missing := sorted(files.keys() - maps.keys()):
        raise ValueError(
            f"{edges} lacks {len(missing)} of {len(files)} edge maps, such as {missing[0]}.png"
        )
    return [(maps[stem], path) for stem, path in files.items()], sorted(maps.keys() - files.keys())


def count_file(job: tuple[pathlib.Path, pathlib.Path, pathlib.Path, int, bool]) -> np.ndarray:
    """Returns the counts of one image, from the folder of counts if they are there.

    Args:
      job: edge map, .mat file, folder of counts, number of thresholds, whether to thin first.

    Raises:
      ValueError: files that cannot be used. The message names them.
    """
    edge_file, truth_file, folder, count, thin = job
    key = hashlib.sha256(repr((count, thin)).encode())
    for file in (edge_file, truth_file):
        key.update(hashlib.sha256(file.read_bytes()).digest())
    path = folder / f"{truth_file.stem}-{key.hexdigest()[:16]}.npy"
    if path.is_file():
        try:
            found = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError):
            found = None  # cut short: counted again
        if found is not None and found.shape == (count, 4):
            return found
    counts = _count(edge_file, truth_file, count, thin)
    buffer = io.BytesIO()
    np.save(buffer, counts)
    write_atomic(path, buffer.getvalue())
    return counts


def _count(edge_file: pathlib.Path, truth_file: pathlib.Path, count: int, thin: bool) -> np.ndarray:
    from segjax.data.sources.mat_files import MatReader
    from segjax.data.sources.raw import UnusableError
    from segjax.evaluation.zero_shot.edge_nms import suppress_edges
    from segjax.evaluation.zero_shot.edge_scores import count_matches, list_thresholds

    try:
        edges = read_edge_map(edge_file)
    except ValueError as error:
        raise ValueError(str(error)) from None  # an ImageError loses its text between processes
    try:
        with MatReader() as reader:
            boundaries = reader.read(truth_file, "Boundaries")
    except UnusableError as error:
        raise ValueError(f"{truth_file}: {error}") from None
    if thin:
        edges = suppress_edges(edges)
    try:
        return count_matches(edges, [truth > 0 for truth in boundaries], list_thresholds(count))
    except ValueError as error:
        raise ValueError(f"{edge_file}: {error}") from None


def read_edge_map(path: pathlib.Path) -> np.ndarray:
    """Reads a gray PNG as float64 [H, W], 0..1.

    Raises:
      ValueError: no such image, or one with colors.
    """
    from segjax.images.labels import read_label_values

    values = read_label_values(path.read_bytes(), str(path))
    if values.dtype == bool:
        return values.astype(np.float64)
    return values / (255.0 if values.dtype.itemsize == 1 else 65535.0)
