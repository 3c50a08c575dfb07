"""Measure mask proposals by average recall: those of a SAM, or of any method.

  segjax eval proposals --checkpoint sam_vit_b --images images/ --truth lvis_val.json --out out
  segjax eval proposals --results proposals.json --truth instances.json --out out

With --checkpoint a SAM proposes masks as in the paper (section 7.3): a grid of 64 x 64 clicks, no
filter, boxes of more than 0.9 IoU removed, ranked by the mean of predicted IoU and stability score,
at most 1000 per image. --results takes a file of COCO results instead: rows with "image_id",
"score" and "segmentation". Classes do not matter.

Files in DIR:
  proposals.json  {"AR@1", "AR@10", "AR@100", "AR@1000", "AR@1000/s", ...}: the mean over IoU
                  thresholds from 0.5 to 0.95, by object size, and by frequency for LVIS
  results.json    with --checkpoint: the proposals in COCO's results format
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from segjax.cli.inference.image_arguments import add_model_arguments, load_model
from segjax.cli.measure.coco_files import list_images, read_results, read_truth
from segjax.files import check_writable, write_json

_MOST = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument("--images", metavar="DIR", help="folder of the images of --truth")
    parser.add_argument("--results", metavar="R.json", help="proposals to measure")
    parser.add_argument("--truth", required=True, metavar="T.json", help="COCO annotations")
    parser.add_argument(
        "--points-per-side", type=int, default=64, metavar="N", help="grid of clicks (default: 64)"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="first N images alone")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Proposes masks or reads them, writes the files and prints the recalls.

    You can skip this function: the measure is in `segjax.evaluation.zero_shot.proposals`.

    Raises:
      ValueError: arguments or files that do not fit together.
      OSError: a file that cannot be read or written.
    """
    if bool(args.results) == bool(args.images):
        raise ValueError("give --results R.json, or --images DIR and perhaps --checkpoint")
    out = pathlib.Path(args.out)
    check_writable(out)
    truth = read_truth(args.truth, args.limit)
    if args.results:
        ids = {image["id"] for image in truth["images"]}
        rows = [
            row for row in read_results(args.results) if not args.limit or row["image_id"] in ids
        ]
    else:
        rows = propose(args, truth)
        write_json(out / "results.json", rows, indent=0)

    from segjax.evaluation.zero_shot.proposals import evaluate_proposals

    metrics = evaluate_proposals(truth, rows)
    write_json(out / "proposals.json", metrics | {"images": len(truth["images"])})
    for name, value in metrics.items():
        print(f"{name:<18}{100 * value:>8.2f}")
    print(f"{out / 'proposals.json'}  {len(rows)} proposals of {len(truth['images'])} images")
    return 0


def propose(args: argparse.Namespace, truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the proposals of a SAM for all images, in COCO's results format."""
    from segjax.cli.inference.image_arguments import get_percentiles
    from segjax.images.decoding import decode_image
    from segjax.inference.sam.automatic import SamAutomaticMaskGenerator

    model, variables, config = load_model(args)
    generator = SamAutomaticMaskGenerator(
        model,
        variables,
        args.points_per_side,
        pred_iou_thresh=0.0,
        stability_score_thresh=0.0,
        box_nms_thresh=0.9,
        output_mode="coco_rle",
        percentiles=get_percentiles(config),
    )
    rows = []
    for number, (image, file) in enumerate(list_images(truth, args.images), 1):
        # Annotations refer to the pixels as they are stored
        records = generator.generate(decode_image(file.read_bytes(), name=str(file)))
        for record in records:
            record["score"] = (record["predicted_iou"] + record["stability_score"]) / 2
        records.sort(key=lambda record: -record["score"])
        rows += [
            {
                "image_id": image["id"],
                "category_id": 1,
                "score": record["score"],
                "bbox": record["bbox"],
                "segmentation": record["segmentation"],
            }
            for record in records[:_MOST]
        ]
        print(f"{number} of {len(truth['images'])}: {file.name}  {len(records)} masks", flush=True)
    return rows
