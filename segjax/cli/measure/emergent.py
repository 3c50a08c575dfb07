"""Measure masks that emerge from the features or the attention of a network.

  segjax eval emergent --data data/nuclei --split stage1_test --checkpoint runs/mae --out out
  segjax eval emergent --data data/coco --split val --method merge --random --out out

The objects of prepared data are the ground truth, whatever their class. Crowds and objects without
a mask are left out. --random draws new weights for the same network, for comparison.

Files in DIR:
  emergent.json  {"mIoU", "CorLoc", "maxF", "AR@100", "images", "objects", "masks", ...}
  masks.png      the masks of the first images
"""

import argparse
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from segjax.cli.inference.image_arguments import add_model_arguments
from segjax.files import check_writable, write_atomic, write_json

_DRAWN = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    add_model_arguments(parser, "mae_vit_b")
    add_method_arguments(parser)
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared data")
    parser.add_argument("--split", default="val", metavar="NAME", help="its split (default: val)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="first N images alone")
    parser.add_argument("--random", action="store_true", help="use random weights instead")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")


def add_method_arguments(parser: Any) -> None:
    """Adds --method, --tau, --features, --block and --size, for `read_method`."""
    parser.add_argument(
        "--method",
        default="tokencut",
        metavar="NAME",
        help="tokencut, maskcut, lost, attention, merge or ncut (default: tokencut)",
    )
    parser.add_argument(
        "--tau", type=float, metavar="T", help="threshold of the method (default: the paper's)"
    )
    parser.add_argument(
        "--features",
        default="keys",
        metavar="KIND",
        help="keys, queries, values or tokens (default: keys)",
    )
    parser.add_argument(
        "--block", type=int, default=-1, metavar="N", help="block of the ViT (default: the last)"
    )
    parser.add_argument(
        "--size", type=int, metavar="PX", help="longer side of the image (default: the canvas)"
    )


def read_method(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `find_emergent_masks`."""
    options = dict(method=args.method, tau=args.tau, kind=args.features)
    return options | dict(block=args.block, size=args.size)


def load_any_model(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Loads a model of any family. Without --checkpoint it is the demo model, which is printed."""
    from segjax.cli import keep_compiled_programs
    from segjax.inference.loading import load
    from segjax.weights.registry import DEMO

    keep_compiled_programs()
    if args.checkpoint is None:
        print(f"no --checkpoint: using the encoder of {DEMO}")
    named = [args.checkpoint or DEMO]
    if args.model is not None:
        named.insert(0, args.model)
    return load(*named, step=args.step, lora=args.lora)


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Finds masks in every image, writes the files and prints the measures.

    You can skip this function: the measures are in `segjax.evaluation.zero_shot.emergent`.

    Raises:
      ValueError: arguments that do not fit together, or a model without a ViT.
      OSError: a file that cannot be read or written.
    """
    out = pathlib.Path(args.out)
    check_writable(out)
    import jax

    from segjax import viz
    from segjax.evaluation.zero_shot.emergent import EmergentScores
    from segjax.images.encoding import encode_png
    from segjax.inference.emergent.methods import METHODS, find_emergent_masks
    from segjax.models.build import init_model

    if args.method not in METHODS:
        raise ValueError(f"--method is {args.method!r}; choose one of {', '.join(METHODS)}")
    model, variables = load_any_model(args)
    if args.random:
        variables = jax.jit(lambda: init_model(model, jax.random.key(0)))()
    # Image by image
    scores, drawn = EmergentScores(), []
    for image, truth in _read_objects(args.data, args.split, args.limit):
        found = find_emergent_masks(model, variables, image, **read_method(args))
        scores.add(found.masks, found.scores, truth)
        if len(drawn) < _DRAWN:
            drawn.append((image, truth, found.masks, f"{len(found.masks)} masks"))
    metrics = scores.compute()
    settings = read_method(args) | {"random": args.random, "split": args.split}
    write_json(out / "emergent.json", metrics | settings)
    write_atomic(out / "masks.png", encode_png(viz.draw_mask_sheet(*zip(*drawn, strict=True))))
    for name, value in metrics.items():
        print(f"{name:<10}{value:>10.4g}")
    print(out / "emergent.json")
    return 0


def _read_objects(data: str, split: str, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields each image and the masks of its objects, bool [G, H, W]."""
    import dataclasses

    from segjax.data.examples.place_objects import decode_record_image
    from segjax.data.records import has_box_only
    from segjax.data.splits import open_split
    from segjax.masks import decode_mask
    from segjax.tasks.settings import RecordSettings

    settings = dataclasses.asdict(RecordSettings(source=data)) | {"train_split": split}
    records = open_split(settings, "train")
    for index in range(min(len(records), limit or len(records))):
        record = records[index]
        objects, size = record["objects"], (record["height"], record["width"])
        used = ~np.asarray(objects["crowd"], bool) & ~has_box_only(objects)
        masks = [decode_mask(objects["rle"][i], *size) for i in np.flatnonzero(used)]
        yield decode_record_image(record), np.array(masks, bool).reshape(-1, *size)
