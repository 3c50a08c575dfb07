"""Export a model as one file that runs without segjax: a detector as StableHLO, a SAM as ONNX.

  segjax export runs/mask_rcnn --out detector.stablehlo
  segjax export maskrcnn.pth --canvas 800 1344 --platforms cpu,cuda --out detector.stablehlo
  segjax export sam_vit_b --onnx decoder --out decoder.onnx
  segjax export sam_vit_b --onnx encoder --out encoder.onnx

In Python, `jax.export.deserialize(bytearray(...)).call(images, sizes)` runs a detector. `images`
are uint8 [B, H, W, 3], each image in the top left corner of its canvas. `sizes` are int32 [B, 2],
the height and width of each image in pixels.

The ONNX decoder has the inputs and outputs of segment-anything's. Each ONNX file is compared with
JAX before it is put in place, on drawn inputs. ONNX needs the extra 'onnx'.
"""

import argparse
import pathlib
from collections.abc import Sequence

from segjax.cli.inference.image_arguments import load_model
from segjax.files import check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    from segjax.cli import parse_step

    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a run's workdir, or a file of weights"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="file to write")
    parser.add_argument(
        "--model", metavar="NAME", help="the model it must be (default: read from the checkpoint)"
    )
    parser.add_argument(
        "--step", type=parse_step, metavar="N|best", help="checkpoint of a run (default: newest)"
    )
    # Detectors
    parser.add_argument(
        "--canvas",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="detector: height and width of the canvas in pixels (default: the model's, square)",
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="detector: images per call (default 1)"
    )
    parser.add_argument(
        "--platforms",
        metavar="cpu,cuda,tpu",
        help="detector: platforms that it runs on (default: this machine's)",
    )
    # SAM
    parser.add_argument(
        "--onnx", choices=("decoder", "encoder"), help="SAM: write this part as an ONNX file"
    )
    parser.add_argument(
        "--return-single-mask",
        action="store_true",
        help="decoder: return one mask, chosen by the number of points, instead of four",
    )
    parser.add_argument(
        "--points",
        type=int,
        metavar="N",
        help="decoder: most points of a prompt, box corners and padding included (default 64)",
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Exports the model and prints a line about the file.

    You can skip this function: the work is done in `segjax.inference.detection.export` and
    `segjax.inference.onnx`.

    Raises:
      ValueError: A model of another family, an option of another export, an unknown platform, a
        missing package, or an ONNX file that differs from JAX.
      OSError: A file that cannot be read or written.
    """
    _check_options(args)
    return _export_detector(args) if args.onnx is None else _export_onnx(args)


def _check_options(args: argparse.Namespace) -> None:
    """Raises ValueError for options that do not concern the requested export."""
    if args.onnx is not None:
        for name in ("canvas", "batch", "platforms"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} is for detectors; leave it out with --onnx {args.onnx}")
    if args.onnx != "decoder" and (args.return_single_mask or args.points is not None):
        name = "--return-single-mask" if args.return_single_mask else "--points"
        raise ValueError(f"{name} is for mask decoders; add --onnx decoder, or leave it out")


def _export_detector(args: argparse.Namespace) -> int:
    """Writes a detector as StableHLO."""
    from segjax.inference.detection.export import export_detector, write_exported

    model, variables, _ = load_model(args, "mask_rcnn")
    canvas = tuple(args.canvas or (model.canvas, model.canvas))
    batch = 1 if args.batch is None else args.batch
    platforms = args.platforms.split(",") if args.platforms else None
    # StableHLO
    exported = export_detector(model, variables, canvas, batch=batch, platforms=platforms)
    size = write_exported(args.out, exported)
    inputs = f"{batch} image{'s' * (batch > 1)} on {canvas[0]} x {canvas[1]} pixels"
    print(f"wrote {args.out}: {inputs}, for {', '.join(exported.platforms)}, {size:,} bytes")
    return 0


def _export_onnx(args: argparse.Namespace) -> int:
    """Writes a part of a SAM as ONNX, and compares it with JAX before it is put in place."""
    from segjax.inference.onnx.check import check_decoder, check_encoder
    from segjax.inference.onnx.export import (
        OPSET,
        POINT_SLOTS,
        export_decoder,
        export_encoder,
        require_onnx,
        write_model,
    )

    require_onnx()
    check_writable(pathlib.Path(args.out).parent)
    model, variables, _ = load_model(args, "sam")
    slots = POINT_SLOTS if args.points is None else args.points
    options = dict(single_mask=args.return_single_mask, slots=slots)
    if args.onnx == "encoder":
        exported, about = export_encoder(model, variables), f"images of {model.canvas} pixels"
    else:
        exported, about = export_decoder(model, variables, **options), f"at most {slots} points"
    with write_model(args.out, exported) as file:
        if args.onnx == "encoder":
            difference = check_encoder(file, model, variables)
        else:
            difference = check_decoder(file, model, variables, **options)
        found = ", ".join(f"{name} by {value:.1e}" for name, value in difference.largest.items())
        summary = (
            f"onnxruntime and JAX differ at most: {found}, over {difference.calls} drawn inputs "
            f"(values up to {difference.magnitude:.1f})"
        )
        if not difference.is_small():
            raise ValueError(
                f"{args.out} is not written: {summary}; expected at most 1e-4 of the largest "
                "value; install other versions of jax2onnx and onnxruntime"
            )
        size = sum(part.stat().st_size for part in file.parent.iterdir())
    print(f"wrote {args.out}: {args.onnx}, {about}, opset {OPSET}, {size:,} bytes")
    print(summary)
    return 0
