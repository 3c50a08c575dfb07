"""Run the whole data engine without people: the ground truth of prepared data clicks.

  segjax prepare nuclei dsb2018_nuclei --out data/nuclei
  segjax engine simulate out/ --data data/nuclei --split stage1_train --images 60 --rounds 3

The images are divided among the rounds, the first part before any training. In each part the
annotator reviews what was prefilled and draws the missing objects, by clicks until IoU 0.85 or 10
clicks. Then a round of training follows, and the next part is prefilled with its model.

Files in OUT:
  images/        the annotated folder, as of `segjax serve`, with its rounds
  simulate.json  per part: objects drawn, accepted and removed, clicks per object, seconds
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.cli.engine.prefill import add_stability_argument
from segjax.files import check_writable, write_atomic, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("out", metavar="OUT", help="new folder for everything")
    parser.add_argument("--data", required=True, metavar="DIR", help="prepared data")
    parser.add_argument("--split", default="train", metavar="NAME", help="default: train")
    parser.add_argument("--images", type=int, default=60, metavar="N", help="default: 60")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--objects",
        type=int,
        default=20,
        metavar="N",
        help="most objects of an image (default: 20)",
    )
    parser.add_argument("--checkpoint", metavar="PATH", help="SAM of round 0 (default: the demo)")
    parser.add_argument("--config", default="sam/finetune:tiny", metavar="FILE.py[:VARIANT]")
    parser.add_argument("--min-score", type=float, default=0.9, metavar="P", help="of proposals")
    add_stability_argument(parser)
    parser.add_argument("--no-prefill", action="store_true", help="stage 1 alone")
    parser.set_defaults(passes_flags=True)


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Plays all parts, prints a line for each and writes the file.

    You can skip this function: the work is in `segjax.engine`.

    Raises:
      ValueError: too few images, or a folder that is not new.
      OSError: a folder that cannot be read or written.
    """
    out = pathlib.Path(args.out)
    check_writable(out)
    folder = out / "images"
    if folder.exists():
        raise ValueError(f"{folder} exists; name a new folder")
    if args.rounds < 1 or args.images < args.rounds + 1:
        raise ValueError(f"{args.images} images for {args.rounds} rounds; expected one per part")
    from segjax.cli import keep_compiled_programs
    from segjax.cli.experiments import read_config
    from segjax.cli.overrides import apply_flags
    from segjax.cli.train import log_progress
    from segjax.engine.rounds import start_round
    from segjax.inference.sam.predictor import SamPredictor
    from segjax.weights.registry import DEMO

    keep_compiled_programs()
    config = apply_flags(read_config(args.config), rest)
    log_progress()
    truths = _write_images(args, folder)
    config.init_from = args.checkpoint or DEMO
    predictor = SamPredictor.load(args.checkpoint or DEMO)
    parts: list[dict[str, Any]] = []
    for number, names in enumerate(np.array_split(sorted(truths), args.rounds + 1)):
        if number:
            predictor = SamPredictor.load(start_round(folder, config).run)
        parts.append(_play_part(args, folder, predictor, number, names.tolist(), truths))
        print(_describe(parts[-1]), flush=True)
    # Accepted proposals are objects without a click
    first, last = parts[0]["clicks_per_truth"], parts[-1]["clicks_per_truth"]
    fall = 1 - last / first if first else 0.0
    write_json(out / "simulate.json", {"parts": parts, "clicks_fell_by": fall})
    print(f"{out / 'simulate.json'}  clicks per object fell by {100 * fall:.0f} %")
    return 0


def _write_images(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Writes the images of the data as PNG, and returns the objects of each file."""
    from segjax.data.examples.place_objects import decode_record_image
    from segjax.data.records import has_box_only
    from segjax.data.splits import SpreadRecords, open_split
    from segjax.images.encoding import encode_png
    from segjax.masks import decode_mask
    from segjax.tasks.settings import RecordSettings

    settings = dataclasses.asdict(RecordSettings(source=args.data)) | {"train_split": args.split}
    records = SpreadRecords(open_split(settings, "train"), args.images)
    if len(records) < args.rounds + 1:
        raise ValueError(f"{args.data} has {len(records)} images; expected one per part")
    # A fixed order without any meaning, so that parts are alike
    order, truths = np.random.default_rng(0).permutation(len(records)), {}
    for number, index in enumerate(order):
        record = records[int(index)]
        objects, size = record["objects"], (record["height"], record["width"])
        used = np.flatnonzero(~np.asarray(objects["crowd"], bool) & ~has_box_only(objects))
        masks = [decode_mask(objects["rle"][i], *size) for i in used[: args.objects]]
        name = f"{number:05d}.png"
        write_atomic(folder / name, encode_png(decode_record_image(record)))
        truths[name] = np.array(masks, bool).reshape(-1, *size)
    return truths


def _play_part(
    args: argparse.Namespace,
    folder: pathlib.Path,
    predictor: Any,
    number: int,
    names: list[str],
    truths: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Prefills and annotates the images of a part, and returns what it took."""
    from segjax.engine.annotator import Effort, SimulatedAnnotator
    from segjax.engine.prefill import prefill, propose_everything

    # Stage 2: proposals of the last model
    proposed = 0
    if number and not args.no_prefill:
        propose = propose_everything(predictor, args.min_score, args.stability)
        proposed = prefill(folder, propose, predictor, names).objects
    # Stage 1: a person reviews them and draws the rest
    annotator, effort = SimulatedAnnotator(folder, predictor), Effort()
    for entry in annotator.images.list_entries():
        if entry.name in names:
            annotator.annotate(entry, truths[entry.name], effort)
    total = sum(len(truths[name]) for name in names)
    return {
        "part": number,
        "images": len(names),
        "truth": total,
        "proposed": proposed,
        **dataclasses.asdict(effort),
        "clicks_per_object": effort.clicks / max(effort.objects, 1),
        "clicks_per_truth": effort.clicks / max(total, 1),
        "prefilled_share": effort.accepted / max(total, 1),
        "objects_per_minute": 60 * (effort.objects + effort.accepted) / max(effort.seconds, 1e-9),
    }


def _describe(part: dict[str, Any]) -> str:
    return (
        f"part {part['part']}: {part['truth']} objects of {part['images']} images: "
        f"{part['clicks_per_object']:.2f} clicks per drawn object ({part['good']} of "
        f"{part['objects']} reach 0.85), {part['accepted']} of {part['proposed']} proposals "
        f"accepted, {part['objects_per_minute']:.1f} objects a minute"
    )
