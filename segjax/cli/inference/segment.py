"""Segment images by any prompt: clicks, words, classes, an example, everything, or nothing.

  segjax segment photo.jpg --point 320,200 --out out
  segjax segment photo.jpg --classes "cup,spoon" --stuff "table,wall" --clip clip_vit_b_16 --out out
  segjax segment photo.jpg --text "the red cup" --clip clip_vit_b_16 --out out
  segjax segment *.jpg --example cat.jpg cat_mask.png --out out
  segjax segment *.jpg --detector runs/mask_rcnn --out out
  segjax segment photo.jpg --emergent tokencut --checkpoint runs/mae --out out

  prompt                        result                               models
  --point, --box, --mask        one object                           --checkpoint (SAM)
  --everything                  all objects                          --checkpoint (SAM)
  --emergent METHOD             masks from the features of a ViT     --checkpoint (any ViT)
  --classes A,B                 one mask per class (semantic)        SAM, --clip
  --classes A,B --instances     named objects                        SAM, --clip
  --classes A,B --stuff C,D     objects and regions (panoptic)       SAM, --clip
  --text PHRASE                 one object per phrase (referring)    SAM, --clip
  --example IMAGE MASK          the object of the example            SAM
  none                          objects of a detector's classes      --detector

Emergent methods are tokencut and lost (one object), maskcut (up to three), attention (one mask per
head of a model with a class token), merge and ncut (all segments).

Files in DIR, for each image:
  NAME_segments.json  masks as COCO run lengths, with scores and names
  NAME_segments.png   the masks drawn over the image
A panoptic result is also written in COCO's panoptic format: panoptic.json and panoptic/NAME.png.

Images are turned upright as their EXIF orientation asks. All results refer to the upright image.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from segjax.cli.inference.image_arguments import (
    add_image_arguments,
    add_model_arguments,
    list_image_names,
    read_image,
)
from segjax.cli.inference.label_arguments import add_clip_arguments
from segjax.cli.inference.predict import read_prompts
from segjax.cli.inference.segment_results import PanopticFile, write_segments
from segjax.files import check_writable

# Options, of which one chooses the prompt
_CHOICES = ("point", "mask", "text", "classes", "example", "everything", "emergent")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    add_image_arguments(parser)
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument("--detector", metavar="PATH", help="Mask R-CNN: a run, a file or a name")
    parser.add_argument(
        "--refine", action="store_true", help="draw a detector's masks again by the SAM"
    )
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--point", action="append", metavar="X,Y[,LABEL]", help="a click in pixels; repeatable"
    )
    prompts.add_argument("--box", metavar="X1,Y1,X2,Y2", help="a box in pixels")
    prompts.add_argument("--mask", metavar="FILE", help="a rough mask; not 0 is the object")
    prompts.add_argument("--text", action="append", metavar="PHRASE", help="repeatable")
    prompts.add_argument("--classes", metavar="A,B,...", help="names of classes")
    prompts.add_argument("--stuff", metavar="A,B,...", help="names of classes without objects")
    prompts.add_argument("--instances", action="store_true", help="one mask per object")
    prompts.add_argument("--example", nargs=2, metavar=("IMAGE", "MASK"), help="the object to find")
    prompts.add_argument("--everything", action="store_true", help="all objects")
    prompts.add_argument("--emergent", metavar="METHOD", help="a method from the list above")
    parser.add_argument("--size", type=int, metavar="PX", help="longer side for --emergent")
    parser.add_argument(
        "--min-score", type=float, default=0.0, metavar="P", help="leave out lower scores"
    )
    for option, text in (("--pred-iou", "predicted IoU"), ("--stability", "stability score")):
        text = f"lowest {text} of everything's masks (default: the weights', or the paper's)"
        parser.add_argument(option, type=float, metavar="T", help=text)
    add_clip_arguments(parser.add_argument_group("names by CLIP"))


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Segments, writes the files and prints one line per image.

    You can skip this function: `segjax.inference.perception.segment` does the work.

    Raises:
      ValueError: arguments that do not fit together, or a prompt without the model it needs.
      OSError: a file that cannot be read or written.
    """
    names = list_image_names(args.images)
    prompt = read_prompt(args)
    out = pathlib.Path(args.out)
    check_writable(out)
    segmenter = make_segmenter(args)
    panoptic = None
    for number, (file, name) in enumerate(zip(args.images, names, strict=True)):
        image = read_image(file, None, args.bands)
        segments = segmenter(image, prompt)
        print(write_segments(out, name, file, image, segments, number))
        if not len(segments) and segments.kind in ("everything", "instance", "semantic"):
            print("  lower --pred-iou and --stability, or --min-score, to see weaker masks")
        if segments.kind == "panoptic":
            panoptic = panoptic or PanopticFile(out, segments.names, len(prompt.things))
            panoptic.add(number, name, segments)
    if panoptic:
        print(panoptic.write())
    return 0


def make_segmenter(args: argparse.Namespace) -> Any:
    """Returns a `Segmenter` with the models of the command line, which are loaded on use."""
    from segjax.cli import keep_compiled_programs
    from segjax.inference.clip.clip import Clip
    from segjax.inference.loading import load, load_with_config
    from segjax.inference.perception.segment import Segmenter
    from segjax.weights.registry import DEMO

    keep_compiled_programs()
    given = {"pred_iou_thresh": args.pred_iou, "stability_score_thresh": args.stability}
    everything = {name: value for name, value in given.items() if value is not None}
    models: dict[str, Any] = {"detector": args.detector, "everything": everything}
    if args.clip is not None:
        overrides = {} if args.activation is None else {"activation": args.activation}
        models["clip"] = Clip.load(args.clip, **overrides)
    if args.checkpoint is None:
        if args.detector is None or args.refine:
            print(f"no --checkpoint: using {DEMO}, a small model for trying segjax")
        return Segmenter(**models)
    named = [args.checkpoint] if args.model is None else [args.model, args.checkpoint]
    options = dict(step=args.step, lora=args.lora)
    if args.emergent:
        return Segmenter(encoder=load(*named, **options), **models)
    return Segmenter(sam=load_with_config(*named, **options, family="sam"), **models)


def read_prompt(args: argparse.Namespace) -> Any:
    """Returns the prompt of the arguments, see `segjax.inference.perception.prompts`.

    Raises:
      ValueError: several prompts, or options of another one.
    """
    from segjax.inference.perception import prompts

    given = [f"--{name}" for name in _CHOICES if getattr(args, name)]
    if args.box and not args.point:
        given.append("--box")
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are different prompts; give one of them")
    for option, needed in (("stuff", "classes"), ("instances", "classes"), ("size", "emergent")):
        if getattr(args, option) and not getattr(args, needed):
            raise ValueError(f"--{option} goes with --{needed}")
    if args.refine and given:
        raise ValueError("--refine goes with --detector alone")
    chosen = given[0] if given else ""
    if chosen in ("--point", "--box"):
        boxes = [args.box] if args.box else []
        (found,) = read_prompts(args.point or [], boxes, False, [])
        if args.point:
            return prompts.Points(found["points"], found["labels"], found["box"])
        return prompts.Box(found["box"])
    if chosen == "--mask":
        return prompts.MaskHint(_read_mask(args.mask))
    if chosen == "--text":
        return prompts.Text(args.text, args.min_score)
    if chosen == "--classes":
        return prompts.Classes(args.classes, args.stuff or (), args.instances, args.min_score)
    if chosen == "--example":
        image, mask = args.example
        return prompts.Example(read_image(image), _read_mask(mask))
    if chosen == "--emergent":
        return prompts.Everything(args.emergent, {"size": args.size} if args.size else {})
    return prompts.Everything() if chosen == "--everything" else prompts.Nothing(args.refine)


def _read_mask(file: str) -> Any:
    """Reads a mask, bool [H, W]."""
    from segjax.images.labels import read_label_values

    return read_label_values(pathlib.Path(file).read_bytes(), file) != 0
