"""What the commands that segment pictures share: which model, and how a picture is read."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def add_model_arguments(parser: argparse.ArgumentParser, published: str = "") -> None:
    """--checkpoint, --model and --step, for `load_model`. published: a name whose weights are fetched, for the help."""
    from segjax.cli import checkpoint_step

    what = "a run's workdir or a file with weights" + (f", or {published}" if published else "")
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help=what)
    parser.add_argument(
        "--model", metavar="NAME", help="which model it must be (default: what it says itself)"
    )
    parser.add_argument(
        "--step", type=checkpoint_step, metavar="N|best", help="checkpoint (default: newest)"
    )


def load_model(
    args: argparse.Namespace, family: str = "sam", **overrides: Any
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Loads the model that the arguments name.

    Args:
      args: parsed arguments of `add_model_arguments`.
      family: registered name of the model family that the command can use, such as "mask_rcnn".
      overrides: attributes of the model to replace.

    Returns:
      The model, its variables, and the run's config or the file's metadata.

    Raises:
      ValueError: a model of another family, saying which commands take it. Others as `segjax.load`.
    """
    from segjax.cli import keep_compiled_programs
    from segjax.inference.loading import load_with_config

    keep_compiled_programs()
    named = (args.checkpoint,) if args.model is None else (args.model, args.checkpoint)
    return load_with_config(*named, step=args.step, family=family, **overrides)


def percentiles_of(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """Those of a run's training, by its config: `read_image` applies them, from the file's own depth, and once."""
    return tuple(config.get("data", {}).get("percentiles") or ()) or None


def check_pictures(files: Sequence[str]) -> list[str]:
    """What results are called, one name a picture.

    Raises FileNotFoundError, and ValueError for pictures of equal names, before any work is done.
    """
    names = [pathlib.Path(file).stem for file in files]
    for file in files:
        if file != "demo" and not pathlib.Path(file).is_file():
            raise FileNotFoundError(
                f"no picture {file}: there is no such file; none of the pictures was begun"
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"two pictures are called {twice!r}: their results would be the same file; run them apart"
        )
    return names


def read_image(name: str, percentiles: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 RGB [H, W, 3] of a file, or of the photograph that "demo" names; see `decode_image`.

    Raises FileNotFoundError, ImageError.
    """
    from segjax.data.synthetic.photographs import load_demonstration_photograph
    from segjax.images.transforms import decode_image

    path = pathlib.Path(name)
    if name == "demo" and not path.exists():
        return decode_image(load_demonstration_photograph(), name=name, percentiles=percentiles)
    if not path.is_file():
        raise FileNotFoundError(
            f"no picture {path}: there is no such file ('demo' is the photograph of the quickstart)"
        )
    return decode_image(path.read_bytes(), name=name, percentiles=percentiles)
