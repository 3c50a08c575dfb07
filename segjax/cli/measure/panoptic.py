"""Measure panoptic segmentations in COCO's format: PQ, SQ and RQ.

  segjax eval panoptic --predictions predictions.json --truth panoptic_val2017.json --out out

Both files are COCO's: {"annotations": [{"image_id", "file_name", "segments_info": [{"id",
"category_id", ...}]}], "categories": [{"id", "name", "isthing"}]}. The PNGs lie in a folder beside
each file that is called as the file without .json (--prediction-folder and --truth-folder name
others). Their ids are R + 256 G + 65536 B, and 0 is void. The categories are those of --truth.

File in DIR:
  panoptic.json  {"All": {"PQ", "SQ", "RQ", "n"}, "Things", "Stuff", "per_class"}
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.files import check_writable, read_json_object, write_json

FORM = "expected COCO's panoptic format: annotations with image_id, file_name and segments_info"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("--predictions", required=True, metavar="P.json", help="predictions")
    parser.add_argument("--truth", required=True, metavar="T.json", help="ground truth")
    parser.add_argument("--prediction-folder", metavar="DIR", help="PNGs (default: beside P.json)")
    parser.add_argument("--truth-folder", metavar="DIR", help="PNGs (default: beside T.json)")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Measures image by image, writes the file and prints the scores.

    You can skip this function: the math is in `segjax.evaluation.panoptic`.

    Raises:
      ValueError: files that do not fit together.
      OSError: a file that cannot be read or written.
    """
    from segjax.evaluation.panoptic import PanopticScores, decode_ids

    check_writable(args.out)
    truth, categories = read_panoptic(args.truth, needs_categories=True)
    predictions, _ = read_panoptic(args.predictions)
    if missing := [number for number in truth if number not in predictions]:
        raise ValueError(
            f"{args.predictions} lacks {len(missing)} of {len(truth)} images, such as "
            f"{missing[0]!r}"
        )
    if others := [number for number in predictions if number not in truth]:
        print(f"{len(others)} predicted images have no ground truth, such as {others[0]!r}")
    folders = [
        pathlib.Path(given) if given else pathlib.Path(file).with_suffix("")
        for given, file in (
            (args.prediction_folder, args.predictions),
            (args.truth_folder, args.truth),
        )
    ]
    scores = PanopticScores(categories)
    for number, annotated in truth.items():
        rows = predictions[number], annotated
        ids = [
            decode_ids(read_png(folder / row["file_name"]))
            for folder, row in zip(folders, rows, strict=True)
        ]
        segments = [row["segments_info"] for row in rows]
        scores.add(ids[0], segments[0], ids[1], segments[1], f"image {number!r}")
    result = scores.summarize()
    path = pathlib.Path(args.out) / "panoptic.json"
    write_json(path, result)
    print(f"{'':<8}{'PQ':>8}{'SQ':>8}{'RQ':>8}{'classes':>9}")
    for group in ("All", "Things", "Stuff"):
        row = result[group]
        values = "".join(f"{100 * row[key]:>8.2f}" for key in ("PQ", "SQ", "RQ"))
        print(f"{group:<8}{values}{row['n']:>9}")
    print(path)
    return 0


def read_panoptic(
    path: str, *, needs_categories: bool = False
) -> tuple[dict[Any, Mapping[str, Any]], dict[int, Mapping[str, Any]]]:
    """Reads a panoptic JSON file.

    Returns:
      (image id -> annotation, category id -> category).

    Raises:
      ValueError: another format, an image that occurs twice, or no categories where needed.
    """
    content = read_json_object(path, FORM)
    rows = content.get("annotations")
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} has no annotations; {FORM}")
    images: dict[Any, Mapping[str, Any]] = {}
    for position, row in enumerate(rows):
        valid = (
            isinstance(row, Mapping)
            and isinstance(row.get("image_id"), int | str)
            and isinstance(row.get("file_name"), str)
            and isinstance(row.get("segments_info"), list)
            and all(isinstance(segment, Mapping) for segment in row["segments_info"])
        )
        if not valid:
            raise ValueError(f"{path}, annotation {position}: {FORM}")
        if row["image_id"] in images:
            raise ValueError(f"{path} has the image {row['image_id']!r} twice")
        name = pathlib.PurePosixPath(row["file_name"])
        if name.is_absolute() or ".." in name.parts:
            raise ValueError(
                f"{path} names a file outside of its folder: {row['file_name']!r:.100}"
            )
        images[row["image_id"]] = row
    categories = {
        category["id"]: category
        for category in content.get("categories") or []
        if isinstance(category, Mapping) and isinstance(category.get("id"), int)
    }
    if needs_categories and not categories:
        raise ValueError(f"{path} has no categories with an id; {FORM}")
    return images, categories


def read_png(path: pathlib.Path) -> np.ndarray:
    """Reads a panoptic PNG as uint8 [H, W, 3].

    Raises:
      ValueError: an image that is damaged, or not RGB of 8 bits.
      FileNotFoundError: no such file.
    """
    from segjax.images.stored import read_pixels

    if path.suffix.lower() != ".png":
        path = path.with_suffix(".png")  # COCO's file_name may be that of the photograph
    pixels = read_pixels(path.read_bytes(), name=str(path))
    if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
        raise ValueError(f"{path} is {pixels.dtype} {pixels.shape}; expected RGB of 8 bits")
    return pixels
