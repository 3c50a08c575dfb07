"""Segment images from points, boxes and texts.

  segjax predict photo.jpg --checkpoint runs/quickstart --point 320,200 --out out
  segjax predict photo.jpg --checkpoint runs/quickstart --point 320,200 --point 90,40,0 --out out
  segjax predict photo.jpg --checkpoint sam_vit_b_01ec64.pth --point 320,200 --out out
  segjax predict photo.jpg --checkpoint runs/quickstart --box 40,30,200,180 --out out
  segjax predict photo.jpg --checkpoint runs/words --text "the red star" --out out
  segjax predict *.jpg --checkpoint sam_vit_b --example cat.jpg cat_mask.png --out out
  segjax predict images/ --checkpoint runs/quickstart --prompts boxes.json --out out

Points (x,y or x,y,label) and a box describe one object. Label 1, the default, is on the object,
label 0 is off it. Several boxes, or points with --separate, describe one object each. Coordinates
are pixels of the image, x to the right and y down. A text describes one object too, alone or with
points and a box, for a SAM that was trained with texts. If the model is sure of no mask, none is
written for a text (--min-iou). For a single click the mask with the highest
predicted IoU of three is kept. --multimask keeps all three. Several images get the same prompts.

--prompts takes boxes and points for many images from a JSON file: COCO's annotations, or a
detector's results. A row has "bbox" [x, y, width, height], or "points" [[x, y, label], ...], or
both. IMAGE is then the folder of the images, by default that of the file.

--example takes an image and the mask of an object in it (not 0 is the object), and segments this
object in the other images, without training (PerSAM).

The image is turned upright as its EXIF orientation asks, which is printed. Coordinates and results
refer to the upright image, as viewers show it.

Files in DIR, for each image:
  NAME_mask_<object>.png  or NAME_mask_<object>_<mask>.png with --multimask
  NAME_overlay.png        masks and prompts over the image
  NAME_candidates.png     with --multimask: all masks with their predicted IoUs
  NAME_prediction.json    predicted IoUs, boxes and COCO run lengths
With --prompts the overlays, and results.json with all masks in COCO's format for results.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.cli.inference.image_arguments import (
    add_band_argument,
    add_model_arguments,
    get_percentiles,
    list_image_names,
    load_model,
    read_image,
)
from segjax.cli.inference.predict_results import make_coco_rows, write_masks, write_overlays
from segjax.cli.inference.prompt_file import ImagePrompts, read_prompt_file
from segjax.files import check_writable, write_json
from segjax.messages import make_printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="PNG, JPEG or TIFF file, or 'demo', a photograph that comes with segjax; with "
        "--prompts also a folder",
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
        "--text",
        action="append",
        default=[],
        metavar="PHRASE",
        help="words for an object, for a SAM with text prompts; repeatable",
    )
    parser.add_argument(
        "--clip", metavar="PATH", help="CLIP for --text (default: the one of the SAM's training)"
    )
    parser.add_argument(
        "--min-iou",
        type=float,
        default=0.5,
        metavar="T",
        help="least predicted IoU of a mask for a text (default: 0.5)",
    )
    parser.add_argument(
        "--separate", action="store_true", help="each point describes its own object"
    )
    parser.add_argument(
        "--prompts", metavar="FILE", help="JSON file with boxes or points of many images"
    )
    parser.add_argument(
        "--multimask", action="store_true", help="keep all three masks of each object"
    )
    parser.add_argument(
        "--example",
        nargs=2,
        metavar=("IMAGE", "MASK"),
        help="segment the object of this mask in the other images",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Predicts, writes the files and prints one line per mask or, with --prompts, per image.

    You can skip this function: the math is in `segjax.inference.sam.predictor` and
    `segjax.models.sam`.

    Raises:
      ValueError: Arguments that do not fit together, or a model of another family.
      OSError: A file that cannot be read or written.
    """
    jobs = list_jobs(args)
    names = list_image_names([job.file for job in jobs])
    out = pathlib.Path(args.out)
    check_writable(out)

    from segjax.inference.sam.predictor import SamPredictor

    model, variables, config = load_model(args)
    predictor = SamPredictor(model, variables, clip=load_text_clip(args, config))
    example = read_example(predictor, args.example, config) if args.example else None
    rows: list[dict[str, Any]] = []
    for job, name in zip(jobs, names, strict=True):
        image = read_image(job.file, get_percentiles(config), args.bands)
        if example is not None:
            found = example.predict(image)
            points = found.points.tolist()
            prompts = [{"points": points, "labels": [1, 0], "box": None}]
            about = {"image": str(job.file), "checkpoint": str(args.checkpoint)}
            about["example"] = args.example
            results = [(found.mask[None], np.array([found.score]))]
            _print_report(write_masks(out, name, image, prompts, results, about))
            print(f"{out}: {name}_overlay.png, {name}_prediction.json")
            continue
        predictor.set_image(image)
        prompts = _clip_boxes(job, image.shape[:2]) if args.prompts else job.prompts
        if (
            len(prompts) > 1
            and not args.multimask
            and all(p["box"] and not p["points"] for p in prompts)
        ):
            results = predict_boxes(predictor, prompts)
        else:
            results = []
            for prompt in prompts:
                masks, iou, _ = predictor.predict(
                    point_coords=prompt["points"] or None,
                    point_labels=prompt["labels"] or None,
                    box=prompt["box"],
                    multimask_output=args.multimask or is_ambiguous(prompt),
                    text=prompt.get("text"),
                )
                if prompt.get("text") is not None:
                    masks = _drop_uncertain(masks, iou, prompt["text"], args.min_iou)
                best = slice(None) if args.multimask else [int(np.argmax(iou))]
                results.append((masks[best], iou[best]))
        if args.prompts:
            rows += make_coco_rows(job.image_id, prompts, results)
            write_overlays(out, name, image, prompts, results)
            print(f"{out / name}_overlay.png  {len(prompts)} objects")
        else:
            about = {"image": str(job.file), "checkpoint": str(args.checkpoint)}
            _print_report(write_masks(out, name, image, prompts, results, about))
            print(f"{out}: {name}_overlay.png, {name}_prediction.json")
    if args.prompts:
        write_json(out / "results.json", rows, indent=0)
        empty = sum(not row["area"] for row in rows)
        print(
            f"{out / 'results.json'}  {len(rows)} masks" + f", {empty} of them empty" * bool(empty)
        )
    return 0


def read_example(predictor: Any, files: Sequence[str], config: Mapping[str, Any]) -> Any:
    """Returns a `PersonalSam` that has learned the object of an image and its mask.

    Raises:
      ValueError: a mask that does not fit its image, or is empty.
    """
    from segjax.images.labels import read_label_values
    from segjax.inference.sam.personalize import PersonalSam

    example = PersonalSam(predictor)
    mask = read_label_values(pathlib.Path(files[1]).read_bytes(), files[1]) != 0
    example.set_example(read_image(files[0], get_percentiles(config)), mask)
    return example


def load_text_clip(args: argparse.Namespace, config: Mapping[str, Any]) -> Any | None:
    """Loads the CLIP of --text, by default the one that the SAM was trained with.

    Raises:
      ValueError: --clip without --text.
    """
    if not args.text:
        if args.clip is not None:
            raise ValueError("--clip without --text; give the words of an object")
        return None
    from segjax.inference.clip.clip import Clip

    trained = config.get("data", {}).get("text", {}).get("clip") if config else None
    path = args.clip or trained
    return Clip.load(path) if path else None  # the predictor says what is missing


def _drop_uncertain(masks: np.ndarray, iou: np.ndarray, text: str, least: float) -> np.ndarray:
    """Returns masks of a text, emptied where the predicted IoU is too low, and prints that."""
    if iou.max() < least:
        print(
            f"nothing found for {make_printable(repr(text), 100)}: the best predicted IoU is "
            f"{iou.max():.2f}, below --min-iou {least:g}"
        )
    return masks & (iou >= least)[:, None, None]


def _print_report(report: Mapping[str, Any]) -> None:
    """Prints one line for each mask of an image."""
    for mask in (mask for entry in report["objects"] for mask in entry["masks"]):
        empty = "" if mask["area"] else "  (empty)"
        iou, area = mask["predicted_iou"], mask["area"]
        print(f"{mask['file']}  predicted IoU {iou:.3f}  {area} px{empty}")


def list_jobs(args: argparse.Namespace) -> list[ImagePrompts]:
    """Returns the images of the command line, each with its prompts.

    Raises:
      ValueError: No image or prompt, or prompts of both kinds.
      FileNotFoundError: An image of the prompt file is missing.
    """
    if args.example:
        if args.point or args.box or args.text or args.prompts or args.multimask:
            raise ValueError("the object comes from the example: give --example alone")
        if not args.images:
            raise ValueError("no image to segment: name one beside the example")
        return [ImagePrompts(file, None, []) for file in args.images]
    if args.prompts:
        if args.point or args.box or args.text:
            raise ValueError(
                "--prompts has the prompts of all images; leave --point, --box and --text out"
            )
        return read_prompt_file(args.prompts, args.images)
    prompts = read_prompts(args.point, args.box, args.separate, args.text)
    if not args.images:
        raise ValueError("no image to segment: name one, or 'demo' for a photograph")
    return [ImagePrompts(file, None, prompts) for file in args.images]


def predict_boxes(
    predictor: Any, prompts: Sequence[dict[str, Any]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Predicts the masks of objects that have a box each, all in one call.

    Args:
      predictor: A `SamPredictor` whose image is set.
      prompts: One dict per object with "box".

    Returns:
      Mask bool [1, H, W] and predicted IoU float32 [1] of each object.
    """
    boxes = np.array([prompt["box"] for prompt in prompts], np.float32)
    masks, ious, _ = predictor.predict_batch(boxes=boxes, multimask_output=False)
    return list(zip(masks, ious, strict=True))


def _clip_boxes(job: ImagePrompts, hw: tuple[int, int]) -> list[dict[str, Any]]:
    """Clips boxes to the image, as a detector's may reach beyond it by a little, and says so."""
    height, width = hw
    prompts, clipped = [], []
    for prompt in job.prompts:
        if prompt["box"] is not None:
            box = np.clip(prompt["box"], 0, [width, height, width, height]).tolist()
            if box[0] >= box[2] or box[1] >= box[3]:
                raise ValueError(
                    f"{job.file}: the box {prompt['box']} (x1 y1 x2 y2) lies outside the image of "
                    f"{width} x {height} pixels"
                )
            if box != prompt["box"]:
                clipped.append(prompt["box"])
                prompt = prompt | {"box": box}
        prompts.append(prompt)
    if clipped:
        print(f"{job.file}: {len(clipped)} boxes are clipped to the image, such as {clipped[0]}")
    return prompts


def read_prompts(
    points: Sequence[str],
    boxes: Sequence[str],
    separate: bool = False,
    texts: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Parses the prompts of the command line and groups them into objects.

    Args:
      points: Texts "X,Y" or "X,Y,LABEL".
      boxes: Texts "X1,Y1,X2,Y2".
      separate: Every point describes its own object.
      texts: Phrases.

    Returns:
      One dict per object: "points" [[x, y], ...], "labels" [...], "box" [x1, y1, x2, y2] or None,
      and perhaps "text".

    Raises:
      ValueError: A text of another form, no prompt at all, or several that do not say what belongs
        together.
    """
    # Parse
    clicks = [_parse_numbers(text, (2, 3), "--point", "X,Y or X,Y,LABEL") for text in points]
    corners = [_parse_numbers(text, (4,), "--box", "X1,Y1,X2,Y2") for text in boxes]
    if not clicks and not corners and not texts:
        raise ValueError(
            "nothing to segment: give at least one --point X,Y, --box X1,Y1,X2,Y2 or --text"
        )
    if texts and (len(corners) > 1 or separate or (len(texts) > 1 and (clicks or corners))):
        raise ValueError(
            f"{len(texts)} texts beside {len(clicks)} points and {len(corners)} boxes: which "
            "belongs to which? Give several texts alone, or one text with its points and one box"
        )
    if len(texts) > 1 or (texts and not clicks and not corners):
        return [{"points": [], "labels": [], "box": None, "text": text} for text in texts]
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
    if not clicks and not texts:
        return [{"points": [], "labels": [], "box": box} for box in corners]
    # All points and one box describe one object.
    box = corners[0] if corners else None
    return [
        {
            "points": [xy for xy, _ in labelled],
            "labels": [label for _, label in labelled],
            "box": box,
        }
        | ({"text": texts[0]} if texts else {})
    ]


def is_ambiguous(prompt: dict[str, Any]) -> bool:
    """Tests if an object has a single click or text alone, for which SAM predicts three masks."""
    count = len(prompt["points"]) + (prompt.get("text") is not None)
    return count == 1 and prompt["box"] is None


def _parse_numbers(text: str, counts: Sequence[int], option: str, form: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        raise ValueError(
            f"{option} {make_printable(repr(text), 100)}: expected {form}, numbers with commas "
            "between them and no spaces"
        )
    return numbers
