"""Export a detector as one file of StableHLO, with its weights, which runs without segjax.

  segjax export runs/mask_rcnn --out detector.stablehlo
  segjax export maskrcnn.pth --canvas 800 1344 --platforms cpu,cuda --out detector.stablehlo

In Python, `jax.export.deserialize(bytearray(...)).call(images, sizes)` runs it. `images` are uint8
[B, H, W, 3], each image in the top left corner of its canvas. `sizes` are int32 [B, 2], the height
and width of each image in pixels.
"""

import argparse
from collections.abc import Sequence

from segjax.cli.inference.image_arguments import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    from segjax.cli import parse_step

    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run's workdir, or a file of weights"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--canvas",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the canvas in pixels (default: the model's, square)",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="images per call (default 1)"
    )
    parser.add_argument(
        "--platforms",
        metavar="cpu,cuda,tpu",
        help="platforms that it runs on (default: this machine's)",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the model it must be (default: read from the checkpoint)"
    )
    parser.add_argument(
        "--step", type=parse_step, metavar="N|best", help="checkpoint of a run (default: newest)"
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Exports the detector and prints one line about the file.

    You can skip this function: the work is done in `segjax.inference.detection.export`.

    Raises:
      ValueError: A model of another family, or an unknown platform.
      OSError: A file that cannot be read or written.
    """
    from segjax.inference.detection.export import export_detector, write_exported

    model, variables, _ = load_model(args, "mask_rcnn")
    canvas = tuple(args.canvas or (model.canvas, model.canvas))
    platforms = args.platforms.split(",") if args.platforms else None
    # StableHLO
    exported = export_detector(model, variables, canvas, batch=args.batch, platforms=platforms)
    size = write_exported(args.out, exported)
    inputs = f"{args.batch} image{'s' * (args.batch > 1)} on {canvas[0]} x {canvas[1]} pixels"
    print(f"wrote {args.out}: {inputs}, for {', '.join(exported.platforms)}, {size:,} bytes")
    return 0
