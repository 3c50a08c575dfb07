"""Segment every object of images, from a grid of clicks.

  segjax everything photo.jpg --checkpoint runs/quickstart --out out
  segjax everything *.jpg --checkpoint runs/quickstart --crop-layers 1 --min-region 100 --out out
  segjax everything photo.jpg --checkpoint sam_vit_b --classes "cup,spoon,table" --out out

Files in DIR, for each image:
  NAME_masks.json  records in SA-1B's format, masks as COCO run lengths
  NAME_masks.png   the masks drawn over the image
With --classes, a CLIP names each mask. The names are in the records, and there are also
  NAME_labels.png  the named masks drawn over the image
  labels.json      the named masks of all images in COCO's format

The default thresholds are those of the published model. A small model of your own is less certain:
lower them if nothing is found.

Images are turned upright as their EXIF orientation asks, which is printed. All results refer to the
upright image.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.cli.inference.image_arguments import (
    add_image_arguments,
    add_model_arguments,
    get_percentiles,
    list_image_names,
    load_model,
    read_image,
)
from segjax.cli.inference.label_arguments import (
    LabelFile,
    add_label_arguments,
    describe_labels,
    draw_labels,
    load_labeler,
)
from segjax.files import check_writable, write_atomic, write_json

# Thresholds of segment-anything, for its published weights
DEFAULTS = {"pred_iou": 0.88, "stability": 0.95}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    add_image_arguments(parser)
    add_model_arguments(parser, "sam_vit_b")
    # Option, type, default, name of its value, help
    options = (
        ("--points-per-side", int, 32, "N", "clicks along each side of the grid"),
        ("--points-per-batch", int, 64, "N", "clicks that are decoded at once"),
        ("--nms", float, 0.7, "T", "highest IoU of the boxes of two masks (NMS)"),
        ("--crop-layers", int, 0, "N", "layers of crops, 4 ** i crops in layer i"),
        ("--min-region", int, 0, "PX", "remove holes and islands of fewer pixels"),
    )
    for option, kind, default, metavar, text in options:
        text = f"{text} (default {default})"
        parser.add_argument(option, type=kind, default=default, metavar=metavar, help=text)
    for option, key, text in (
        ("--pred-iou", "pred_iou", "lowest predicted IoU"),
        ("--stability", "stability", "lowest stability score"),
    ):
        text = f"{text} (default {DEFAULTS[key]}, or what the weights recommend)"
        parser.add_argument(option, type=float, metavar="T", help=text)
    parser.add_argument(
        "--max-area",
        type=float,
        metavar="F",
        help="drop masks that cover this share of the image or more (default: keep all)",
    )
    add_label_arguments(parser, required=False)


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Segments, writes the files and prints one line per image.

    You can skip this function: the math is in `segjax.inference.sam.automatic`.

    Raises:
      ValueError: Arguments that do not fit together, or a model of another family.
      OSError: A file that cannot be read or written.
    """
    names = list_image_names(args.images)
    check_writable(args.out)

    from segjax.inference.perception.labels import label_records
    from segjax.inference.sam.automatic import SamAutomaticMaskGenerator

    model, variables, config = load_model(args)
    pred_iou, stability = choose_thresholds(args.pred_iou, args.stability, config)
    # The grid of clicks, see segment-anything's generator
    generator = SamAutomaticMaskGenerator(
        model,
        variables,
        args.points_per_side,
        args.points_per_batch,
        pred_iou,
        stability,
        box_nms_thresh=args.nms,
        crop_n_layers=args.crop_layers,
        min_mask_region_area=args.min_region,
        output_mode="coco_rle",
        max_mask_area=args.max_area,
        progress=True,
    )
    labeler, out = load_labeler(args), pathlib.Path(args.out)
    labels = LabelFile(labeler.names) if labeler else None
    for number, (file, name) in enumerate(zip(args.images, names, strict=True)):
        image = read_image(file, get_percentiles(config), args.bands)
        records = generator.generate(image)
        named = ""
        if labeler:
            records = label_records(labeler, image, records)
            write_atomic(out / f"{name}_labels.png", draw_labels(image, records, labeler.names))
            named = f": {describe_labels(records)}"
            labels.add(number, pathlib.Path(file).name, image.shape[:2], records)
        path = write_results(out, name, file, image, records, number)
        hint = "" if records else "; lower --pred-iou or --stability to see weaker ones"
        print(f"{path}  {len(records)} masks{named}{hint}")
    if labels:
        print(labels.write(out / "labels.json"))
    return 0


def choose_thresholds(
    pred_iou: float | None, stability: float | None, config: Mapping[str, Any]
) -> tuple[float, float]:
    """Returns both thresholds, and says so if the weights recommend others than the defaults.

    Args:
      pred_iou: Of the command line, or None.
      stability: Of the command line, or None.
      config: The run's config or the file's metadata. Its entry "everything" may hold both.
    """
    from segjax.inference.saved_options import read_saved_thresholds

    stated = read_saved_thresholds(config)
    chosen, recommended = [], []
    for key, given in (("pred_iou", pred_iou), ("stability", stability)):
        value = stated.get(key, DEFAULTS[key])
        if given is None and key in stated:
            recommended.append(f"--{key.replace('_', '-')} {value:g} instead of {DEFAULTS[key]}")
        chosen.append(value if given is None else given)
    if recommended:
        print(f"these weights recommend {' and '.join(recommended)}")
    return chosen[0], chosen[1]


def write_results(
    out: pathlib.Path,
    name: str,
    file: str,
    image: np.ndarray,
    records: Sequence[dict[str, Any]],
    number: int,
) -> pathlib.Path:
    """Writes the overlay and, last, the records, each atomically.

    Args:
      out: Folder.
      name: Name of the image.
      file: File of the image.
      image: uint8 [H, W, 3].
      records: Masks of the image, see `SamAutomaticMaskGenerator.generate`.
      number: Index of the image on the command line, for `image_id`.

    Returns:
      Path of the records.
    """
    from segjax import viz
    from segjax.images.encoding import encode_png
    from segjax.inference.sam.mask_records import make_label_map

    height, width = image.shape[:2]
    write_atomic(
        out / f"{name}_masks.png",
        encode_png(viz.draw_label_map(image, make_label_map(records, (height, width)))),
    )
    # Records in SA-1B's format
    content = {
        "image": {
            "image_id": number,
            "width": width,
            "height": height,
            "file_name": pathlib.Path(file).name,
        },
        "annotations": [{"id": index, **record} for index, record in enumerate(records)],
    }
    path = out / f"{name}_masks.json"
    write_json(path, content)
    return path
