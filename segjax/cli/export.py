"""Write a detector's inference as one file of StableHLO, weights included, which runs without segjax.

  segjax export runs/mask_rcnn --out detector.stablehlo
  segjax export maskrcnn.pth --canvas 800 1344 --platforms cpu,cuda --out detector.stablehlo

In Python `jax.export.deserialize(bytearray(...)).call(images, sizes)` runs it: pictures uint8 [B, H, W, 3], each in the
top left corner of its canvas, and their sizes int32 [B, 2].
"""

import argparse
from collections.abc import Sequence

from segjax.cli.pictures import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    from segjax.cli import checkpoint_step

    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run's workdir, or a file with weights"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    parser.add_argument(
        "--canvas",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="pixels (default: the model's, square)",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="pictures in a call (default 1)"
    )
    parser.add_argument(
        "--platforms", metavar="cpu,cuda,tpu", help="where it may run (default: where this is run)"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="which model it must be (default: what it says itself)"
    )
    parser.add_argument(
        "--step", type=checkpoint_step, metavar="N|best", help="checkpoint (default: newest)"
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Exports, and prints what was written. Raises ValueError or OSError for what does not go."""
    from segjax.inference.detection.export import export_detector, write_exported

    model, variables, _ = load_model(args, "Mask R-CNN")
    canvas = tuple(args.canvas or (model.canvas, model.canvas))
    platforms = args.platforms.split(",") if args.platforms else None
    exported = export_detector(model, variables, canvas, batch=args.batch, platforms=platforms)
    size = write_exported(args.out, exported)
    takes = f"{args.batch} picture{'s' * (args.batch > 1)} on {canvas[0]} x {canvas[1]} pixels"
    print(f"wrote {args.out}: {takes}, for {', '.join(exported.platforms)}, {size:,} bytes")
    return 0
