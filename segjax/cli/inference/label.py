"""Name masks or boxes by a CLIP: open-vocabulary labels without training.

  segjax label out/photo_masks.json photo.jpg --classes cup,spoon,table --out out
  segjax label detections.json images/ --clip ViT-B-16.pt --classes cup,spoon --out out
  segjax label data.json images/ --clip runs/clip --classes star,cross --min-score 0.5 --out out

  segjax label masks.json images/ --classes cup,spoon --truth instances.json --out out

The first argument has the masks: a file of `segjax everything`, COCO's annotations, or the results
of any detector. Rows with a box alone are named by their boxes. The next ones are the images, or
folders of them, by default the folder of the file.

Files in DIR:
  labels.json      masks with their names in COCO's format: the names are its categories
  NAME_labels.png  the named masks drawn over each image
  evaluation.json  with --truth: COCO's AP of masks and boxes, whose scores are the names'

--truth is a COCO file of the same image ids. Its categories are matched by name.

Masks refer to the stored pixels of an image, or to the upright image if only that has their size.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.cli.inference.image_finder import NamedImages
from segjax.cli.inference.label_arguments import (
    LabelFile,
    add_label_arguments,
    describe_labels,
    draw_labels,
    load_labeler,
)
from segjax.cli.measure.coco_files import read_json, read_truth
from segjax.files import check_writable, write_atomic, write_json

FORMS = (
    "expected a file of `segjax everything`, COCO's {'images': [...], 'annotations': [...]}, or a "
    "list of results [{'image_id': ..., 'segmentation' or 'bbox': ...}, ...]"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("masks", metavar="MASKS.json", help="masks or boxes of images")
    parser.add_argument("images", nargs="*", metavar="IMAGE|DIR", help="images, or their folders")
    add_label_arguments(parser, required=True)
    parser.add_argument(
        "--truth", metavar="FILE", help="COCO annotations, to measure open-vocabulary AP"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Names the masks, writes the files and prints one line per image.

    You can skip this function: the math is in `segjax.inference.perception.labels`.

    Raises:
      ValueError: a file without masks, or arguments that do not fit together.
      OSError: a file that cannot be read or written.
    """
    jobs = read_masks(args.masks, args.images)
    out = pathlib.Path(args.out)
    check_writable(out)

    from segjax.cli import keep_compiled_programs
    from segjax.images.decoding import decode_image
    from segjax.inference.perception.labels import label_records

    keep_compiled_programs()
    labeler = load_labeler(args)
    labels = LabelFile(labeler.names)
    for image_id, file, rows in jobs:
        data = pathlib.Path(file).read_bytes()
        image = decode_image(data, name=str(file))
        if not _fits(image, rows):
            # The masks of `segjax everything` are those of the upright image
            upright = decode_image(data, name=str(file), upright=True, notes=[])
            if _fits(upright, rows):
                print(f"{file}: turned upright, as its masks are")
                image = upright
        records = [
            _fill_record(row, image.shape[:2], f"{args.masks}, {where}") for where, row in rows
        ]
        labeled = label_records(labeler, image, records)
        labels.add(image_id, pathlib.Path(file).name, image.shape[:2], labeled)
        path = out / f"{pathlib.Path(file).stem}_labels.png"
        write_atomic(path, draw_labels(image, labeled, labeler.names))
        print(f"{path}  {describe_labels(labeled)}")
    print(labels.write(out / "labels.json"))
    if args.truth:
        metrics = measure(args.truth, labels.annotations, labeler.names)
        write_json(out / "evaluation.json", metrics)
        print(", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
        print(out / "evaluation.json")
    return 0


def _fits(image: np.ndarray, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    """Tells whether run lengths among the rows have the size of the image."""
    sizes = [
        row["segmentation"].get("size")
        for _, row in rows
        if isinstance(row.get("segmentation"), Mapping)
    ]
    return all(size == list(image.shape[:2]) for size in sizes)


def measure(
    path: str, annotations: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> dict[str, float]:
    """Computes COCO's AP of named masks and of their boxes.

    Args:
      path: COCO annotations of the same images.
      annotations: of `LabelFile`.
      names: class names, in the order of the category ids.

    Raises:
      ValueError: no such file, no category that has one of the names, or other images.
    """
    from segjax.evaluation.coco import evaluate_coco

    truth = read_truth(path)
    ids = {category["name"].lower(): category["id"] for category in truth["categories"]}
    numbers = {i: ids[name.lower()] for i, name in enumerate(names, 1) if name.lower() in ids}
    if not numbers:
        raise ValueError(
            f"{path} has none of the classes {', '.join(names)}; it has "
            f"{', '.join(sorted(ids)[:20])}"
        )
    if others := [name for name in names if name.lower() not in ids]:
        print(f"{path} has no category {', '.join(others)}: such masks are not measured")
    rows = [
        {**row, "category_id": numbers[row["category_id"]]}
        for row in annotations
        if row["category_id"] in numbers
    ]
    metrics = evaluate_coco(truth, rows, "segm").summarize()
    return metrics | evaluate_coco(truth, rows, "bbox").summarize()


def read_masks(
    path: str, places: Sequence[str]
) -> list[tuple[Any, str, list[tuple[str, Mapping[str, Any]]]]]:
    """Reads the rows of a file by image, and finds the images.

    Args:
      path: JSON file.
      places: files and folders of images. Empty: the folder of the file.

    Returns:
      (image id, file, [(position of the row for messages, row), ...]) of each image.

    Raises:
      ValueError: no such JSON, or a row without an image.
      FileNotFoundError: an image is missing.
    """
    content = read_json(path, FORMS)
    names: dict[Any, str] = {}
    if isinstance(content, Mapping) and isinstance(content.get("annotations"), list):
        rows = content["annotations"]
        infos = [content["image"]] if "image" in content else content.get("images")
        if not isinstance(infos, list):
            raise ValueError(f"{path} has annotations and no images; {FORMS}")
        for info in infos:
            number = info.get("id", info.get("image_id")) if isinstance(info, Mapping) else None
            if isinstance(number, int | str) and isinstance(info.get("file_name"), str):
                names[number] = info["file_name"]
        only = next(iter(names), None) if "image" in content else None
        rows = [{"image_id": only, **row} if isinstance(row, Mapping) else row for row in rows]
    elif isinstance(content, list):
        rows = content
    else:
        raise ValueError(f"{path} holds no masks; {FORMS}")
    if not rows:
        raise ValueError(f"{path} holds no masks; {FORMS}")
    by_image: dict[Any, list] = {}
    for position, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get("image_id"), int | str):
            raise ValueError(f"{path}, row {position} has no image_id; {FORMS}")
        by_image.setdefault(row["image_id"], []).append((f"row {position}", row))
    finder = NamedImages(places or [str(pathlib.Path(path).parent)])
    return [
        (number, finder.find(number, names.get(number)), found)
        for number, found in by_image.items()
    ]


def _fill_record(row: Mapping[str, Any], hw: tuple[int, int], where: str) -> dict[str, Any]:
    """Returns a row with its segmentation as run lengths of COCO, a filled box for a box alone.

    Raises:
      ValueError: neither a mask nor a box, or one that does not fit the image.
    """
    from segjax.data.sources.annotations.segmentations import decode_segmentation, has_segmentation
    from segjax.data.sources.raw import UnusableError
    from segjax.masks import compute_mask_box, encode_mask

    height, width = hw
    if has_segmentation(row.get("segmentation")):
        try:
            mask = decode_segmentation(row["segmentation"], height, width, where)
        except UnusableError as error:
            raise ValueError(f"{where}: {error}") from error
    else:
        box = row.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise ValueError(f"{where} has neither a segmentation nor a bbox [x, y, w, h]")
        x1, y1, x2, y2 = box[0], box[1], box[0] + box[2], box[1] + box[3]
        mask = np.zeros(hw, bool)
        mask[max(round(y1), 0) : max(round(y2), 0), max(round(x1), 0) : max(round(x2), 0)] = True
        if not mask.any():
            raise ValueError(
                f"{where}: bbox {box!r:.80} covers no pixel of an image of {width} x {height}"
            )
    segmentation = {"size": [height, width], "counts": encode_mask(mask)}
    x1, y1, x2, y2 = (int(edge) for edge in compute_mask_box(mask)) if mask.any() else [0] * 4
    own = {"area": int(mask.sum()), "bbox": [x1, y1, x2 - x1, y2 - y1]}
    return {**own, **row, "segmentation": segmentation}
