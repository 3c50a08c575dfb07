"""Turn the boxes of any detector into masks by a SAM, and measure them (SAM, section 7.4).

  segjax eval boxes --detections vitdet.json --images val2017/ --truth instances_val2017.json \\
    --checkpoint sam_vit_b --out out

--detections is a file of COCO results with "image_id", "category_id", "bbox" and "score". For each
box the SAM predicts masks, and once more from the box and the logits of its most confident mask, as
the paper does (--no-refine leaves that out). Classes and scores stay those of the detector.

Files in DIR:
  results.json  the masks in COCO's results format
  boxes.json    COCO's AP and AR of the masks and, to compare, of the detector's boxes
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.cli.inference.image_arguments import add_model_arguments, load_model
from segjax.cli.measure.coco_files import list_images, read_results, read_truth
from segjax.files import check_writable, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument("--detections", required=True, metavar="R.json", help="COCO results")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--truth", required=True, metavar="T.json", help="COCO annotations")
    parser.add_argument(
        "--no-refine", action="store_true", help="one prediction for each box, not two"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="first N images alone")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Draws the masks, writes the files and prints the scores.

    You can skip this function: the masks are those of `SamPredictor`, the measure is in
    `segjax.evaluation.coco`.

    Raises:
      ValueError: files that do not fit together, or a box that covers nothing of its image.
      OSError: a file that cannot be read or written.
    """
    out = pathlib.Path(args.out)
    check_writable(out)
    truth, by_image = read_truth(args.truth, args.limit), {}
    ids = {image["id"] for image in truth["images"]}
    outside = 0
    for row in read_results(args.detections):
        check_row(row, args.detections)
        if row["image_id"] in ids:
            by_image.setdefault(row["image_id"], []).append(row)
        else:
            outside += 1
    if outside:
        print(f"{outside} detections are of images that are not measured")
    if not by_image:
        raise ValueError(f"{args.detections} has no detection of the images of {args.truth}")

    from segjax.cli.inference.image_arguments import get_percentiles
    from segjax.evaluation.coco import evaluate_coco
    from segjax.images.decoding import decode_image
    from segjax.inference.sam.predictor import SamPredictor

    model, variables, config = load_model(args)
    predictor = SamPredictor(model, variables, percentiles=get_percentiles(config))
    results = []
    for image, file in list_images(truth, args.images):
        rows = by_image.get(image["id"], [])
        if rows:
            # Boxes refer to the pixels as they are stored
            predictor.set_image(decode_image(file.read_bytes(), name=str(file)))
            results += draw_masks(predictor, rows, refine=not args.no_refine)
            print(f"{file.name}  {len(rows)} boxes", flush=True)
    write_json(out / "results.json", results, indent=0)
    metrics = evaluate_coco(truth, results, "segm").summarize()
    metrics |= evaluate_coco(truth, results, "bbox").summarize()
    write_json(out / "boxes.json", metrics | {"detections": len(results)})
    for name in ("segm/AP", "segm/AP50", "segm/AP75", "bbox/AP"):
        if name in metrics:
            print(f"{name:<12}{100 * metrics[name]:>8.2f}")
    print(f"{out / 'boxes.json'}  {len(results)} detections")
    return 0


def check_row(row: Mapping[str, Any], path: str) -> None:
    """Raises ValueError for a detection without a class, a score or a box with an area."""
    box = row.get("bbox")
    valid = isinstance(box, list) and len(box) == 4 and np.isfinite(box).all()
    if not valid or box[2] <= 0 or box[3] <= 0:
        raise ValueError(
            f"{path}: a detection of image {row['image_id']!r} has the bbox {box!r:.80}; expected "
            "[x, y, width, height] with an area"
        )
    for key in ("category_id", "score"):
        if not isinstance(row.get(key), int | float):
            raise ValueError(f"{path}: a detection of image {row['image_id']!r} lacks {key}")


def draw_masks(
    predictor: Any, rows: Sequence[Mapping[str, Any]], *, refine: bool
) -> list[dict[str, Any]]:
    """Returns detections with the masks that a SAM draws from their boxes.

    Args:
      predictor: a `SamPredictor` whose image is set.
      rows: detections of the image.
      refine: predict again from the box and the logits of the most confident mask.
    """
    from segjax.masks import encode_mask

    height, width = predictor.original_size
    boxes = np.array([row["bbox"] for row in rows], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    masks, iou, low_res = predictor.predict_batch(boxes=boxes)
    index = np.arange(len(rows)), iou.argmax(axis=1)
    if refine:
        masks, _, _ = predictor.predict_batch(
            boxes=boxes, mask_input=low_res[index], multimask_output=False
        )
        index = np.arange(len(rows)), np.zeros(len(rows), int)
    return [
        {**row, "segmentation": {"size": [height, width], "counts": encode_mask(mask)}}
        for row, mask in zip(rows, masks[index], strict=True)
    ]
