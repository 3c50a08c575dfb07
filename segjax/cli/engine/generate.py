"""Segment everything in any number of images, by any number of processes (stage 3).

  segjax engine generate images/ out/ --checkpoint sam_vit_h
  segjax engine generate images/ out/ --checkpoint sam_vit_h --shard 3/64
  srun segjax engine generate images/ out/ --shard $SLURM_PROCID/$SLURM_NTASKS

Each process takes its share of the shards and then helps the others (--no-steal: it does not). A
killed process loses the shard it worked on: run the same command again. Finished shards are
skipped, and the result does not depend on who computed what. Another process takes over a shard of
a killed one after 10 minutes, or at once if the folder OUT/.claims is deleted while none runs.

Files in OUT, in SA-1B's layout:
  sa_000000.tar            sa_1.json, ... of a shard, and its images with --with-images
  sa_000000.errors.jsonl   images that cannot be read, with the reason
`segjax prepare sa1b OUT` reads archives with images.
"""

import argparse
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from segjax.cli.inference.image_arguments import add_model_arguments, get_percentiles, load_model
from segjax.files import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    parser.add_argument("images", metavar="IMAGES", help="folder of images")
    parser.add_argument("out", metavar="OUT", help="folder for the results")
    add_model_arguments(parser, "sam_vit_b")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="this process, of how many")
    parser.add_argument("--no-steal", action="store_true", help="do this process's shards alone")
    parser.add_argument(
        "--shard-size", type=int, default=1000, metavar="N", help="images per file (default: 1000)"
    )
    parser.add_argument("--manifest", metavar="FILE", help="paths of the images, one per line")
    parser.add_argument(
        "--with-images", action="store_true", help="put the images beside the masks"
    )
    for option, kind, text in (
        ("--points-per-side", int, "clicks along each side of the grid (default: 32)"),
        ("--crop-layers", int, "layers of crops (default: 2)"),
        (
            "--pred-iou",
            float,
            "lowest predicted IoU (default: 0.88, or what the weights recommend)",
        ),
        ("--stability", float, "lowest stability score (default: 0.95, or what they recommend)"),
        ("--min-region", int, "remove holes and islands of fewer pixels (default: 100)"),
        ("--images-per-batch", int, "images that are embedded in one call (default: 1)"),
    ):
        parser.add_argument(option, type=kind, metavar="N" if kind is int else "T", help=text)


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Segments the shards of this process and prints a line for each.

    You can skip this function: the work is in `segjax.engine.generate`.

    Raises:
      ValueError: arguments that do not fit together, or no images.
      OSError: a folder that cannot be read or written.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", args.shard)
    if not match or int(match[2]) < 1:
        raise ValueError(f"--shard is {args.shard!r}; expected I/N, such as 3/64, from 0/64")
    folder, out = pathlib.Path(args.images), pathlib.Path(args.out)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of images: {folder}")
    check_writable(out)
    from segjax.engine.generate import generate_shards
    from segjax.engine.manifest import list_shards, order_shards

    manifest = pathlib.Path(args.manifest) if args.manifest else None
    shards = list_shards(folder, args.shard_size, manifest)
    shards = order_shards(shards, int(match[1]), int(match[2]), not args.no_steal)
    progress = generate_shards(
        make_generator(args),
        folder,
        out,
        shards,
        images_per_batch=args.images_per_batch or 1,
        with_images=args.with_images,
        report=_print_shard,
    )
    total = sum(progress.seconds.values())
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in progress.seconds.items())
    rate = f", {progress.images / total:.2f} images/s" if total > 0 and progress.images else ""
    print(
        f"{out}: {progress.shards} shards written, {progress.skipped} skipped; {progress.images} "
        f"images, {progress.masks} masks, {progress.broken} unreadable{rate} ({parts})"
    )
    return 0


def make_generator(args: argparse.Namespace) -> Any:
    """Returns the generator of the arguments, with the settings of SAM's paper."""
    from segjax.engine.generate import SETTINGS
    from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
    from segjax.inference.saved_options import read_saved_thresholds

    model, variables, config = load_model(args)
    stated = read_saved_thresholds(config)
    given = {
        "points_per_side": args.points_per_side,
        "crop_n_layers": args.crop_layers,
        "pred_iou_thresh": stated.get("pred_iou") if args.pred_iou is None else args.pred_iou,
        "stability_score_thresh": (
            stated.get("stability") if args.stability is None else args.stability
        ),
        "min_mask_region_area": args.min_region,
        "percentiles": get_percentiles(config),
        "views_per_batch": args.images_per_batch,
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    return SamAutomaticMaskGenerator(model, variables, **(SETTINGS | chosen))


def _print_shard(shard: Any, progress: Any) -> None:
    print(f"{shard.name}: {progress.images} images, {progress.masks} masks so far", flush=True)
