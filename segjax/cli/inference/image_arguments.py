"""Arguments of the commands that apply a model to images: which model, and which images."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.weights.registry import DEMO


def add_model_arguments(parser: argparse.ArgumentParser, published: str = "") -> None:
    """Adds --checkpoint, --model and --step, for `load_model`.

    Args:
      parser: Parser of the command.
      published: Name of published weights that are downloaded on use, as an example in the help.
    """
    from segjax.cli import parse_step

    source = "a run's workdir or a file of weights" + (f", or {published}" if published else "")
    if published:
        source += f" (default: {DEMO}, a small model that comes with segjax)"
    parser.add_argument("--checkpoint", required=not published, metavar="PATH", help=source)
    parser.add_argument(
        "--model", metavar="NAME", help="the model it must be (default: read from the checkpoint)"
    )
    parser.add_argument(
        "--lora", metavar="FILE", help="adapters on top of the checkpoint (segjax convert --lora)"
    )
    parser.add_argument(
        "--step", type=parse_step, metavar="N|best", help="checkpoint of a run (default: newest)"
    )


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the images to read, --bands, and --out, the folder for the results."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="PNG, JPEG or TIFF file, or 'demo', a photograph"
    )
    add_band_argument(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")


def add_band_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --bands, for `read_image`."""
    parser.add_argument(
        "--bands",
        type=_parse_bands,
        metavar="R,G,B",
        help="bands of the image to show, from 1: three such as 3,2,1, or one as gray",
    )


def _parse_bands(text: str) -> tuple[int, ...]:
    """Parses the value of --bands. argparse turns the error into a message."""
    parts = text.split(",")
    if len(parts) not in (1, 3) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected one or three numbers from 1, with commas between them, such as "
            "3,2,1"
        )
    return tuple(int(part) for part in parts)


def load_model(
    args: argparse.Namespace, family: str = "sam", **overrides: Any
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Loads the model that the arguments name.

    Args:
      args: Parsed arguments of `add_model_arguments`.
      family: Registered name of the model family that the command can use, such as "mask_rcnn".
      overrides: Attributes of the model to replace.

    Returns:
      The model, its variables, and the run's config or the file's metadata.

    Raises:
      ValueError: A model of another family, saying which commands take it. Others as `segjax.load`.
    """
    from segjax.cli import keep_compiled_programs
    from segjax.inference.loading import load_with_config

    keep_compiled_programs()
    if args.checkpoint is None:
        if args.model is not None or args.step is not None:
            raise ValueError("--model and --step describe a checkpoint; name it with --checkpoint")
        args.checkpoint = DEMO
        print(
            f"no --checkpoint: using {DEMO}, a small model for trying segjax; "
            "--checkpoint sam_vit_b downloads a published SAM"
        )
    named = (args.checkpoint,) if args.model is None else (args.model, args.checkpoint)
    return load_with_config(
        *named, step=args.step, family=family, lora=getattr(args, "lora", None), **overrides
    )


def get_percentiles(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """Returns the intensity percentiles that a run was trained with, for `read_image`."""
    from segjax.inference.saved_options import read_saved_percentiles

    return read_saved_percentiles(config)


def list_image_names(files: Sequence[str]) -> list[str]:
    """Returns the names of images for the files of results: the files' names without suffix.

    Call it before any work is done, so that a missing file does not stop a long run in the middle.

    Raises:
      FileNotFoundError: A file does not exist.
      ValueError: Two images have the same name.
    """
    names = [pathlib.Path(file).stem for file in files]
    for file in files:
        if file != "demo" and not pathlib.Path(file).is_file():
            raise FileNotFoundError(f"no image {file}: there is no such file; nothing was started")
    # The results of two images must not overwrite each other.
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"two images are called {repeated!r}: their results would be the same file; run them "
            "separately"
        )
    return names


def read_image(
    name: str,
    percentiles: tuple[float, float] | None = None,
    bands: Sequence[int] | None = None,
) -> np.ndarray:
    """Reads an image, upright, and prints everything that is not shown as it is stored.

    Args:
      name: A file, or "demo" for the photograph that comes with segjax.
      percentiles: Stretch the intensities between these percentiles, see `decode_image`.
      bands: Channels to show, see `decode_image`.

    Returns:
      uint8 RGB [H, W, 3].

    Raises:
      FileNotFoundError: There is no such file.
      ImageError: The file cannot be decoded.
    """
    from segjax.data.synthetic.photographs import load_demonstration_photograph
    from segjax.images.decoding import decode_image

    # A file that is called demo comes before the photograph.
    path = pathlib.Path(name)
    if name == "demo" and not path.exists():
        source = load_demonstration_photograph()
    elif path.is_file():
        source = path.read_bytes()
    else:
        raise FileNotFoundError(
            f"no image {path}: there is no such file ('demo' is the photograph of the quickstart)"
        )
    notes: list[Any] = []
    image = decode_image(
        source, name=name, percentiles=percentiles, bands=bands, upright=True, notes=notes
    )
    for note in notes:
        print(f"{name}: {note.reason} ({note.detail})")
    return image
