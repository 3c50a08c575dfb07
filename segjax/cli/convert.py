"""Turn weights into another format.

  segjax convert sam_vit_b_01ec64.pth sam_vit_b.safetensors
  segjax convert sam_vit_b sam_vit_b_512.safetensors --canvas 512
  segjax convert runs/coco coco.pth --step best
  segjax convert runs/coco model.safetensors --format huggingface
  segjax convert model_final_f10217.pkl mask_rcnn.safetensors --model mask_rcnn_R_50_FPN

SRC is a run's workdir, a .safetensors file (ours or transformers'), a file of torch.save (.pth, .pt, .bin), a .pkl of
detectron2's model zoo, or the name of a published model, which is fetched. DST is a .safetensors file (ours, unless
--format says otherwise) or one for torch: with the official names, those of segment-anything or facebookresearch/mae,
unless --format says otherwise; of a detector with those of the library whose conventions it follows.
Every array of SRC must fit the model, and DST is written whole or not at all. Torch is not needed, and nothing in a
.pth file is run.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    from segjax.cli import parse_step

    parser.add_argument("source", metavar="SRC", help="what to read")
    parser.add_argument("target", metavar="DST", help="the file to write")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="which model SRC must be (default: what it says or looks like)",
    )
    parser.add_argument(
        "--format",
        metavar="official|huggingface|torchvision|detectron2|segjax",
        help="whose names (default: see above)",
    )
    parser.add_argument(
        "--step",
        type=parse_step,
        metavar="N|best",
        help="checkpoint of a run (default: newest)",
    )
    parser.add_argument(
        "--canvas", type=int, metavar="PX", help="resize the position tables to this canvas"
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Converts, and prints what was read and written. Raises ValueError or OSError for what does not go."""
    import jax

    from segjax.inference.loading import read_model
    from segjax.models.build import family_of_model
    from segjax.weights.checkpoint import write_checkpoint
    from segjax.weights.tree import flatten

    jax.config.update("jax_platforms", "cpu")  # nothing here is worth an accelerator's memory
    named = (args.source,) if args.model is None else (args.model, args.source)
    overrides = {} if args.canvas is None else {"canvas": args.canvas}
    network, variables, checkpoint, options = read_model(*named, step=args.step, **overrides)
    print(
        f"read {args.source}: {checkpoint.format}, {options['name']}, {_amount(flatten(checkpoint.arrays))}"
    )
    metadata = checkpoint.saved | {"model": options}
    record = family_of_model(network)
    format, arrays = write_checkpoint(
        args.target,
        variables,
        format=_choose_format(record.library(network), args),
        metadata=metadata,
        canvas=network.canvas,
    )
    count = sum(array.size for array in flatten(variables["params"]).values())
    size = pathlib.Path(args.target).stat().st_size
    print(f"wrote {args.target}: {format}, {arrays} arrays, {count:,} parameters, {size:,} bytes")
    if format != "segjax" and (note := record.conversion_note(network)):
        print(f"note: {format} has no place for {note}")
    return 0


def _choose_format(library: str | None, args: argparse.Namespace) -> str | None:
    """Returns the format of DST, None for the default of its suffix.

    Args:
      library: the only library whose files can hold the model, None where all formats can.
      args: parsed arguments.

    Raises:
      ValueError: --format names a library whose files cannot hold the model.
    """
    from segjax.weights.torch_file import SUFFIXES

    if library is None:
        return args.format
    if args.format not in (None, "segjax", "official", library):
        raise ValueError(
            f"--format {args.format}: the model follows {library}'s conventions, and its arrays have no place in other "
            f"files; choose {library} or segjax"
        )
    for_torch = pathlib.Path(args.target).suffix in SUFFIXES
    return (
        library if args.format == "official" or (for_torch and args.format is None) else args.format
    )


def _amount(arrays: Mapping[str, Any]) -> str:
    return f"{len(arrays)} arrays, {sum(array.nbytes for array in arrays.values()):,} bytes"
