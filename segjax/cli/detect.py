"""Find the objects of pictures with a Mask R-CNN: boxes, classes, masks and keypoints.

  segjax detect photo.jpg --checkpoint runs/mask_rcnn --out out
  segjax detect *.jpg --checkpoint maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth --score .7 --out out
  segjax detect photo.jpg --checkpoint runs/mask_rcnn --refine sam_vit_b_01ec64.pth --out out

Written to DIR: NAME_detections.png for each picture, the objects over it, enlarged if it is small; and of all of them
detections.json, in COCO's format of results (boxes as x, y, width, height; masks as run lengths; the data set's own
category ids), and pictures.json, in its format of annotations without any: which picture and which category each id is.
With --refine a SAM draws the masks anew, from the boxes; with --refine-if surer only those of which it expects a higher
IoU than the detector's own probabilities promise.
"""

import argparse
import collections
import pathlib
from collections.abc import Mapping, Sequence
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
    add_model_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--score",
        type=float,
        default=0.5,
        metavar="T",
        help="objects have a higher score (default .5)",
    )
    parser.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="of a picture (default: the model's, often 100)",
    )
    parser.add_argument(
        "--refine", metavar="SAM", help="a SAM's run or file, which draws the masks from the boxes"
    )
    parser.add_argument(
        "--refine-if",
        choices=("always", "surer"),  # REFINE_IF; to import it would import jax
        default="always",
        help="whose masks stay: replace all, as the SAM paper does (default), or where the SAM is surer of its own",
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Detects, writes the files and prints a line a picture. Raises ValueError or OSError for bad input."""
    names = check_pictures(args.images)
    if args.refine_if != "always" and not args.refine:
        raise ValueError(
            f"--refine-if {args.refine_if} is about the masks of a SAM; name its run or file with --refine"
        )

    from segjax.inference.detection.class_names import resolve_classes
    from segjax.inference.detection.detector import Detector
    from segjax.inference.detection.sam_refinement import make_mask_refiner

    model, variables, config = load_model(args, "mask_rcnn")
    detector = Detector(
        model,
        variables,
        classes=resolve_classes(model, config),
        score_threshold=args.score,
        max_detections=args.max_detections,
    )
    refine = make_mask_refiner(args.refine, args.refine_if) if args.refine else lambda image, found: found
    out, answers = pathlib.Path(args.out), []
    for file, name in zip(args.images, names, strict=True):
        image = read_image(file, percentiles_of(config))
        found = refine(image, detector.find([image])[0])
        write_atomic(out / f"{name}_detections.png", picture_of(image, found, detector.classes))
        print(f"{out / name}_detections.png  {said_of(found, detector)}")
        answers.append(found)
    write_results(out, args.images, names, answers, detector.classes)
    print(f"{args.out}: detections.json, pictures.json")
    return 0


def picture_of(image: np.ndarray, found: Any, classes: Any) -> bytes:
    """PNG of a picture with what was found in it, the smaller masks above the larger; one mask at a time is decoded.

    A small picture is enlarged by a whole number, so that the words can be read.
    """
    from segjax import viz
    from segjax.images.encoding import encode_png
    from segjax.inference.sam.automatic import label_map

    scale = viz.choose_readable_scale(found.hw)
    large = lambda pixels: pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    image = large(image)
    if found.masks is not None:
        # Areas of boxes do as an order: to know those of masks they would be decoded twice.
        areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
        masks = [{"size": found.hw, "counts": counts} for counts in found.masks]
        rows = [dict(segmentation=mask, area=area) for mask, area in zip(masks, areas, strict=True)]
        image = viz.draw_label_map(image, large(label_map(rows, found.hw)))
    keypoints = None if found.keypoints is None else found.keypoints[..., :2]
    drawn = dict(scores=found.scores, keypoints=keypoints, skeleton=classes.skeleton, scale=scale)
    return encode_png(
        viz.draw_detections(
            image, found.boxes, None, found.labels - 1, names=classes.names, **drawn
        )
    )


def said_of(found: Any, detector: Any) -> str:
    """What is in a picture, for people: the classes by falling number."""
    count = len(found.boxes)
    if not count:
        return "nothing; lower --score to see what is less certain"
    numbers = collections.Counter(detector.names[label - 1] for label in found.labels)
    named = ", ".join(f"{number} {name}" for name, number in numbers.most_common())
    full = count == detector.max_detections
    return f"{count} object{'s' * (count > 1)}: {named}" + (
        "; --max-detections allows for more" if full else ""
    )


def write_results(
    out: pathlib.Path,
    files: Sequence[str],
    names: Sequence[str],
    answers: Sequence[Any],
    classes: Any,
) -> None:
    """Writes pictures.json and, last, detections.json, each whole or not at all.

    Pictures have the numbers that they are called by, as COCO's are, if all of them are; else 1, 2, 3 ...
    """
    from segjax.evaluation.coco_format import CocoResults, build_coco_ground_truth

    pictures: Mapping[str, Any] = build_coco_ground_truth(
        [], classes.names, classes.ids, keypoint_names=classes.keypoint_names
    )
    numbers = [int(name) for name in names if name.isdecimal()]
    ids = numbers if len(set(numbers)) == len(names) else range(1, len(names) + 1)
    for number, file, found in zip(ids, files, answers, strict=True):
        size = {"height": found.hw[0], "width": found.hw[1]}
        pictures["images"].append({"id": number, "file_name": pathlib.Path(file).name} | size)
    results = CocoResults(pictures)
    for place, found in enumerate(answers):
        results.add(
            place, found.boxes, found.scores, found.labels - 1, found.masks, found.keypoints
        )
    write_json(out / "pictures.json", pictures)
    results.write(out / "detections.json")
