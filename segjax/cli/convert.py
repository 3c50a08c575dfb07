"""Convert weights into another format.

  segjax convert sam_vit_b_01ec64.pth sam_vit_b.safetensors
  segjax convert sam_vit_b sam_vit_b_512.safetensors --canvas 512
  segjax convert runs/coco coco.pth --step best
  segjax convert runs/lora adapters.safetensors --lora
  segjax convert runs/coco model.safetensors --format huggingface
  segjax convert model_final_f10217.pkl mask_rcnn.safetensors --model mask_rcnn_R_50_FPN

SRC is one of:
  a run's workdir
  a .safetensors file of segjax or of transformers
  a .pth, .pt or .bin file of torch.save
  a .pkl file of detectron2's model zoo
  the name of published weights, which are downloaded

--lora writes the trained arrays of a run with adapters alone, to be put on top of the weights that
the run started from: segjax predict ... --checkpoint WEIGHTS --lora FILE.

DST is a .safetensors file, by default in segjax's format, or a .pth file. By default a .pth file
has the official names of segment-anything or facebookresearch/mae. A detector gets the names of the
library whose conventions it follows. Every array of SRC must fit the model. DST is written
atomically. Torch is not needed, and no code in a .pth file is executed.
"""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    from segjax.cli import parse_step

    parser.add_argument("source", metavar="SRC", help="weights to read")
    parser.add_argument("target", metavar="DST", help="file to write")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="the model that SRC must be (default: read from SRC)",
    )
    parser.add_argument(
        "--format",
        metavar="official|huggingface|torchvision|detectron2|segjax",
        help="format of DST (default: see above)",
    )
    parser.add_argument(
        "--step",
        type=parse_step,
        metavar="N|best",
        help="checkpoint of a run (default: newest)",
    )
    parser.add_argument(
        "--canvas",
        type=int,
        metavar="PX",
        help="resize the position embeddings to a canvas of this side in pixels",
    )
    parser.add_argument("--lora", action="store_true", help="write the adapters of a run alone")


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Converts weights and prints one line each about SRC and DST.

    You can skip this function: names are mapped in `segjax.weights`.

    Raises:
      ValueError: Unknown weights or format, or arrays that do not fit the model.
      OSError: A file that cannot be read or written.
    """
    import jax

    from segjax.inference.loading import read_model
    from segjax.models.build import family_of_model
    from segjax.weights.checkpoint import write_checkpoint
    from segjax.weights.tree import flatten

    jax.config.update("jax_platforms", "cpu")  # conversion needs no accelerator
    # Read
    named = (args.source,) if args.model is None else (args.model, args.source)
    if args.canvas is not None and args.canvas < 1:
        raise ValueError(f"--canvas is {args.canvas}; expected a side of at least 1 pixel")
    overrides = {} if args.canvas is None else {"canvas": args.canvas}
    network, variables, checkpoint, options = read_model(*named, step=args.step, **overrides)
    size = _describe_size(flatten(checkpoint.arrays))
    print(f"read {args.source}: {checkpoint.format}, {options['name']}, {size}")
    if args.lora:
        return _write_adapters(args, network, checkpoint, options)
    # Write
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


def _write_adapters(args: argparse.Namespace, network: Any, checkpoint: Any, options: Any) -> int:
    """Writes the trained arrays of a run with adapters."""
    from segjax.models.build import variable_shapes
    from segjax.weights.adapters.files import save_adapter

    if args.format not in (None, "segjax") or pathlib.Path(args.target).suffix != ".safetensors":
        raise ValueError(f"--lora writes segjax's own .safetensors files; got {args.target}")
    if args.canvas is not None:
        raise ValueError("--lora keeps the canvas of the run; leave --canvas out")
    constants = variable_shapes(network)["constants"]
    count = save_adapter(args.target, checkpoint.arrays, constants, options)
    size = pathlib.Path(args.target).stat().st_size
    print(f"wrote {args.target}: {count} trained arrays, {size:,} bytes")
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
            f"--format {args.format}: the model follows {library}'s conventions, and its arrays "
            f"have no place in other files; choose {library} or segjax"
        )
    # Files for torch hold the library's names unless another format is chosen.
    for_torch = pathlib.Path(args.target).suffix in SUFFIXES
    return (
        library if args.format == "official" or (for_torch and args.format is None) else args.format
    )


def _describe_size(arrays: Mapping[str, Any]) -> str:
    return f"{len(arrays)} arrays, {sum(array.nbytes for array in arrays.values()):,} bytes"
