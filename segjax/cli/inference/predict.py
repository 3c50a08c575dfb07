"""Segment an image from points and boxes.

  segjax predict photo.jpg --checkpoint runs/quickstart --point 320,200 --out out
  segjax predict photo.jpg --checkpoint runs/quickstart --point 320,200 --point 90,40,0 --out out
  segjax predict photo.jpg --checkpoint sam_vit_b_01ec64.pth --point 320,200 --out out
  segjax predict photo.jpg --checkpoint runs/quickstart --box 40,30,200,180 --out out

Points (x,y or x,y,label) and a box describe one object. Label 1, the default, is on the object,
label 0 is off it. Several boxes, or points with --separate, describe one object each. Coordinates
are pixels of the image, x to the right and y down. For a single click the mask with the highest
predicted IoU of three is kept. --multimask keeps all three.

The image is turned upright as its EXIF orientation asks, which is printed. Coordinates and results
refer to the upright image, as viewers show it.

Files in DIR:
  mask_<object>.png  or mask_<object>_<mask>.png with --multimask
  overlay.png        masks and prompts over the image
  prediction.json    predicted IoUs, boxes and COCO run lengths
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.cli.inference.image_arguments import (
    add_band_argument,
    add_model_arguments,
    get_percentiles,
    load_model,
    read_image,
)
from segjax.files import write_atomic, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        help="PNG, JPEG or TIFF file, or 'demo', a photograph that comes with segjax",
    )
    add_band_argument(parser)
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument(
        "--point",
        action="append",
        default=[],
        metavar="X,Y[,LABEL]",
        help="a click in pixels; repeatable",
    )
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="X1,Y1,X2,Y2",
        help="a box in pixels; repeatable",
    )
    parser.add_argument(
        "--separate", action="store_true", help="each point describes its own object"
    )
    parser.add_argument(
        "--multimask", action="store_true", help="keep all three masks of each object"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Predicts, writes the files and prints one line per mask.

    You can skip this function: the math is in `segjax.inference.sam.predictor` and
    `segjax.models.sam`.

    Raises:
      ValueError: Arguments that do not fit together, or a model of another family.
      OSError: A file that cannot be read or written.
    """
    prompts = read_prompts(args.point, args.box, args.separate)

    from segjax.inference.sam.predictor import SamPredictor

    model, variables, config = load_model(args)
    image = read_image(args.image, get_percentiles(config), args.bands)
    predictor = SamPredictor(model, variables)
    predictor.set_image(image)
    results = []
    for prompt in prompts:
        masks, iou, _ = predictor.predict(
            point_coords=prompt["points"] or None,
            point_labels=prompt["labels"] or None,
            box=prompt["box"],
            multimask_output=args.multimask or is_ambiguous(prompt),
        )
        best = slice(None) if args.multimask else [int(np.argmax(iou))]
        results.append((masks[best], iou[best]))
    report = write_results(
        pathlib.Path(args.out), image, prompts, results, str(args.image), str(args.checkpoint)
    )
    for entry in report["objects"]:
        for mask in entry["masks"]:
            print(f"{mask['file']}  predicted IoU {mask['predicted_iou']:.3f}  {mask['area']} px")
    print(f"{args.out}: overlay.png, prediction.json")
    return 0


def read_prompts(
    points: Sequence[str], boxes: Sequence[str], separate: bool = False
) -> list[dict[str, Any]]:
    """Parses the prompts of the command line and groups them into objects.

    Args:
      points: Texts "X,Y" or "X,Y,LABEL".
      boxes: Texts "X1,Y1,X2,Y2".
      separate: Every point describes its own object.

    Returns:
      One dict per object: "points" [[x, y], ...], "labels" [...], "box" [x1, y1, x2, y2] or None.

    Raises:
      ValueError: A text of another form, no prompt at all, or points beside several boxes.
    """
    # Parse
    clicks = [_parse_numbers(text, (2, 3), "--point", "X,Y or X,Y,LABEL") for text in points]
    corners = [_parse_numbers(text, (4,), "--box", "X1,Y1,X2,Y2") for text in boxes]
    if not clicks and not corners:
        raise ValueError("nothing to segment: give at least one --point X,Y or --box X1,Y1,X2,Y2")
    # Check
    if clicks and (len(corners) > 1 or (corners and separate)):
        raise ValueError(
            f"{len(clicks)} points beside {len(corners)} boxes: which belongs to which? Give one "
            "box and its points, or several boxes alone, or points with --separate alone"
        )
    for click in clicks:
        if len(click) == 3 and click[2] not in (0, 1):
            raise ValueError(
                f"--point label {click[2]:g}: expected 1 (on the object) or 0 (off it)"
            )
    labelled = [(click[:2], int(click[2]) if len(click) == 3 else 1) for click in clicks]
    if separate and labelled:
        return [{"points": [xy], "labels": [label], "box": None} for xy, label in labelled]
    if not clicks:
        return [{"points": [], "labels": [], "box": box} for box in corners]
    # All points and one box describe one object.
    box = corners[0] if corners else None
    return [
        {
            "points": [xy for xy, _ in labelled],
            "labels": [label for _, label in labelled],
            "box": box,
        }
    ]


def is_ambiguous(prompt: dict[str, Any]) -> bool:
    """Tests if an object is described by a single click, for which SAM predicts three masks."""
    return len(prompt["points"]) == 1 and prompt["box"] is None


def write_results(
    out: pathlib.Path,
    image: np.ndarray,
    prompts: Sequence[dict[str, Any]],
    results: Sequence[tuple[np.ndarray, np.ndarray]],
    file: str,
    checkpoint: str,
) -> dict[str, Any]:
    """Writes masks, overlay and, last, prediction.json, each atomically.

    Args:
      out: Folder.
      image: uint8 [H, W, 3].
      prompts: One dict per object, see `read_prompts`.
      results: Masks bool [M, H, W] and predicted IoUs [M] of each object. M is 3 with --multimask,
        else 1.
      file: File of the image, for the report.
      checkpoint: The checkpoint, for the report.

    Returns:
      The content of prediction.json.
    """
    from segjax import viz
    from segjax.images.encoding import encode_png
    from segjax.masks import compute_mask_box, encode_mask

    height, width = image.shape[:2]
    objects, best_masks = [], []
    # One file per mask
    for number, (prompt, (masks, iou)) in enumerate(zip(prompts, results, strict=True)):
        entries = []
        for index, (mask, score) in enumerate(zip(masks, iou, strict=True)):
            name = f"mask_{number}.png" if len(masks) == 1 else f"mask_{number}_{index}.png"
            write_atomic(out / name, encode_png(mask.astype(np.uint8) * 255))
            entry = {"file": name, "predicted_iou": round(float(score), 6), "area": int(mask.sum())}
            entry["box"] = compute_mask_box(mask).tolist() if mask.any() else None
            entries.append(entry | {"rle": {"size": [height, width], "counts": encode_mask(mask)}})
        objects.append(prompt | {"masks": entries})
        best_masks.append(masks[int(np.argmax(iou))])
    overlay = viz.draw_masks(image, np.stack(best_masks))
    # Overlay
    points = [xy for prompt in prompts for xy in prompt["points"]]
    labels = [label for prompt in prompts for label in prompt["labels"]]
    boxes = [prompt["box"] for prompt in prompts if prompt["box"] is not None]
    overlay = viz.draw_prompts(
        overlay,
        np.array(points, np.float32) if points else None,
        np.array(labels) if labels else None,
        np.array(boxes, np.float32) if boxes else None,
    )
    write_atomic(out / "overlay.png", encode_png(overlay))
    # Report
    report = {
        "image": file,
        "height": height,
        "width": width,
        "checkpoint": checkpoint,
        "objects": objects,
    }
    write_json(out / "prediction.json", report, indent=1, sort_keys=False)
    return report


def _parse_numbers(text: str, counts: Sequence[int], option: str, form: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        raise ValueError(
            f"{option} {text!r}: expected {form}, numbers with commas between them and no spaces"
        )
    return numbers
