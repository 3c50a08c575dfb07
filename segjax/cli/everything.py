"""Segment every object of pictures, from a grid of clicks.

  segjax everything photo.jpg --checkpoint runs/quickstart --out out
  segjax everything *.jpg --checkpoint runs/quickstart --crop-layers 1 --min-region 100 --out out

Written to DIR for each picture: NAME_masks.json, records in the format of SA-1B (masks as COCO run lengths), and
NAME_masks.png, the masks over the picture. The thresholds are those of the published model; a small one of your own is
less sure of itself: lower them when nothing is found.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.cli.pictures import (
    add_model_arguments,
    check_pictures,
    load_model,
    percentiles_of,
    read_image,
)
from segjax.files import write_json, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="PNG, JPEG or TIFF; 'demo': segjax's photograph"
    )
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--points-per-side", type=int, default=32, metavar="N", help="clicks a side (default 32)"
    )
    parser.add_argument(
        "--points-per-batch", type=int, default=64, metavar="N", help="clicks at once (default 64)"
    )
    parser.add_argument(
        "--pred-iou",
        type=float,
        default=0.88,
        metavar="T",
        help="least predicted IoU (default .88)",
    )
    parser.add_argument(
        "--stability", type=float, default=0.95, metavar="T", help="least stability (default .95)"
    )
    parser.add_argument(
        "--nms", type=float, default=0.7, metavar="T", help="most overlap of boxes (default .7)"
    )
    parser.add_argument(
        "--crop-layers", type=int, default=0, metavar="N", help="layers of crops (default 0)"
    )
    parser.add_argument(
        "--min-region", type=int, default=0, metavar="PX", help="remove smaller holes and islands"
    )
    parser.add_argument(
        "--max-area",
        type=float,
        metavar="F",
        help="drop masks of this share of the picture or more",
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Segments, writes the files and prints a line a picture. Raises ValueError or OSError for bad input."""
    names = check_pictures(args.images)

    from segjax.inference.sam.automatic import SamAutomaticMaskGenerator

    model, variables, config = load_model(args)
    generator = SamAutomaticMaskGenerator(
        model,
        variables,
        args.points_per_side,
        args.points_per_batch,
        args.pred_iou,
        args.stability,
        box_nms_thresh=args.nms,
        crop_n_layers=args.crop_layers,
        min_mask_region_area=args.min_region,
        output_mode="coco_rle",
        max_mask_area=args.max_area,
        progress=True,
    )
    for number, (file, name) in enumerate(zip(args.images, names, strict=True)):
        image = read_image(file, percentiles_of(config))
        records = generator.generate(image)
        path = write_results(pathlib.Path(args.out), name, file, image, records, number)
        hint = "" if records else "; lower --pred-iou or --stability to see weaker ones"
        print(f"{path}  {len(records)} masks{hint}")
    return 0


def write_results(
    out: pathlib.Path,
    name: str,
    file: str,
    image: np.ndarray,
    records: Sequence[dict[str, Any]],
    number: int,
) -> pathlib.Path:
    """Writes the overlay and, last, the records; each file whole or not at all. Returns the latter's path."""
    from segjax import viz
    from segjax.images.encoding import encode_png
    from segjax.inference.sam.automatic import label_map

    height, width = image.shape[:2]
    write_atomic(
        out / f"{name}_masks.png",
        encode_png(viz.draw_label_map(image, label_map(records, (height, width)))),
    )
    content = {
        "image": {
            "image_id": number,
            "width": width,
            "height": height,
            "file_name": pathlib.Path(file).name,
        },
        "annotations": [{"id": place, **record} for place, record in enumerate(records)],
    }
    path = out / f"{name}_masks.json"
    write_json(path, content)
    return path
