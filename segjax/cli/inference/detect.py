"""Detect the objects of images with a Mask R-CNN: boxes, classes, masks and keypoints.

  segjax detect photo.jpg --checkpoint runs/mask_rcnn --out out
  segjax detect *.jpg --checkpoint maskrcnn_resnet50_fpn --score 0.7 --out out
  segjax detect photo.jpg --checkpoint runs/mask_rcnn --refine sam_vit_b_01ec64.pth --out out

Files in DIR:
  NAME_detections.png  the objects drawn over each image (small images are enlarged)
  detections.json      all detections in COCO's results format: boxes as x, y, width, height in
                       pixels, masks as run lengths, the category ids of the data set
  pictures.json        the images and categories that the ids stand for, in COCO's annotation format

With --refine a SAM draws the masks again, from the boxes. With --refine-if surer it replaces only
those for which it expects a higher IoU than the detector's own probabilities do.

Images are turned upright as their EXIF orientation asks, which is printed. All results refer to the
upright image.
"""

import argparse
import collections
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
from segjax.files import check_writable, write_atomic, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    add_image_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "--score",
        type=float,
        default=0.5,
        metavar="T",
        help="lowest score of a detection, 0 to 1 (default 0.5)",
    )
    parser.add_argument(
        "--max-detections",
        type=int,
        metavar="N",
        help="most detections of an image (default: the model's, often 100)",
    )
    parser.add_argument(
        "--refine", metavar="SAM", help="run or file of a SAM, which draws the masks from the boxes"
    )
    parser.add_argument(
        "--refine-if",
        choices=("always", "surer"),  # REFINE_IF; to import it would import jax
        default="always",
        help="replace all masks, as the SAM paper does (default), or those where the SAM is surer",
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Detects, writes the files and prints one line per image.

    You can skip this function: the math is in `segjax.inference.detection` and
    `segjax.models.detection`.

    Raises:
      ValueError: Arguments that do not fit together, or a model of another family.
      OSError: A file that cannot be read or written.
    """
    names = list_image_names(args.images)
    check_writable(args.out)
    if args.refine_if != "always" and not args.refine:
        raise ValueError(
            f"--refine-if {args.refine_if} is about the masks of a SAM; name its run or file with "
            "--refine"
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
    # A SAM draws the masks from the boxes.
    refine = make_mask_refiner(args.refine, args.refine_if) if args.refine else None
    out, results = pathlib.Path(args.out), []
    # Each image, with its overlay
    for file, name in zip(args.images, names, strict=True):
        image = read_image(file, get_percentiles(config), args.bands)
        detections = detector.detect([image])[0]
        if refine is not None:
            detections = refine(image, detections)
        write_atomic(out / f"{name}_detections.png", draw_png(image, detections, detector.classes))
        print(f"{out / name}_detections.png  {describe_detections(detections, detector)}")
        results.append(detections)
    write_results(out, args.images, names, results, detector.classes)
    print(f"{args.out}: detections.json, pictures.json")
    return 0


def draw_png(image: np.ndarray, detections: Any, classes: Any) -> bytes:
    """Draws detections over an image, small masks above large ones, and encodes it as PNG.

    A small image is enlarged by an integer factor, so that the labels can be read.
    """
    from segjax import viz
    from segjax.images.encoding import encode_png
    from segjax.inference.sam.mask_records import make_label_map

    scale = viz.choose_readable_scale(detections.hw)
    enlarge = lambda pixels: pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    image = enlarge(image)
    if detections.masks is not None:
        # The areas of the boxes give the order: those of the masks would need a second decoding.
        areas = np.prod(detections.boxes[:, 2:] - detections.boxes[:, :2], axis=1)
        rows = [
            dict(segmentation={"size": detections.hw, "counts": counts}, area=area)
            for counts, area in zip(detections.masks, areas, strict=True)
        ]
        image = viz.draw_label_map(image, enlarge(make_label_map(rows, detections.hw)))
    keypoints = None if detections.keypoints is None else detections.keypoints[..., :2]
    # Boxes, labels and keypoints
    image = viz.draw_detections(
        image,
        detections.boxes,
        None,
        detections.labels - 1,
        names=classes.names,
        scores=detections.scores,
        keypoints=keypoints,
        skeleton=classes.skeleton,
        scale=scale,
    )
    return encode_png(image)


def describe_detections(detections: Any, detector: Any) -> str:
    """Describes the detections of an image in words: classes by decreasing number."""
    count = len(detections.boxes)
    if not count:
        return "nothing; lower --score to see what is less certain"
    counts = collections.Counter(detector.names[label - 1] for label in detections.labels)
    named = ", ".join(f"{number} {name}" for name, number in counts.most_common())
    full = count == detector.max_detections
    return f"{count} object{'s' * (count > 1)}: {named}" + (
        "; --max-detections allows for more" if full else ""
    )


def write_results(
    out: pathlib.Path,
    files: Sequence[str],
    names: Sequence[str],
    results: Sequence[Any],
    classes: Any,
) -> None:
    """Writes pictures.json and, last, detections.json, each atomically.

    The image ids are the images' names if all of these are numbers, as in COCO, else 1, 2, 3, ...

    Args:
      out: Folder.
      files: The image files.
      names: Names of the images.
      results: Detections of each image.
      classes: Classes of the detector.
    """
    from segjax.evaluation.coco_format import build_coco_ground_truth
    from segjax.evaluation.coco_results import CocoResults

    listing: Mapping[str, Any] = build_coco_ground_truth(
        [], classes.names, classes.ids, keypoint_names=classes.keypoint_names
    )
    # Ids of the images
    numbers = [int(name) for name in names if name.isdecimal()]
    ids = numbers if len(set(numbers)) == len(names) else range(1, len(names) + 1)
    for number, file, detections in zip(ids, files, results, strict=True):
        size = {"height": detections.hw[0], "width": detections.hw[1]}
        listing["images"].append({"id": number, "file_name": pathlib.Path(file).name} | size)
    # Results in COCO's format
    coco = CocoResults(listing)
    for index, detections in enumerate(results):
        coco.add(
            index,
            detections.boxes,
            detections.scores,
            detections.labels - 1,
            detections.masks,
            detections.keypoints,
        )
    write_json(out / "pictures.json", listing)
    coco.write(out / "detections.json")
