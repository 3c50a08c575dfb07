"""Show what a masked autoencoder makes of pictures of which it sees a quarter.

  segjax reconstruct photo.jpg --checkpoint runs/mae --out out
  segjax reconstruct *.jpg --checkpoint runs/mae --mask-ratio .9 --seed 3 --out out
  segjax reconstruct photo.jpg --checkpoint vit_mae/model.safetensors --raw-pixels --out out

Written to DIR for each picture: NAME_masked.png (what the model sees), NAME_reconstructed.png (with its guess of the
rest), NAME_original.png, and NAME_sheet.png, the three beside one another. The middle of the picture is taken, resized
to the model's canvas. A model that predicts normalised pixels says nothing of a patch's mean and contrast: those of the
original are lent to it. A file of weights does not say whether it is one; --raw-pixels says that it is not.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from segjax.cli.pictures import (
    add_model_arguments,
    check_pictures,
    load_model,
    percentiles_of,
    read_image,
)
from segjax.files import write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command line takes; the module's docstring is its help."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="PNG, JPEG or TIFF; 'demo': segjax's photograph"
    )
    add_model_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the mask (default 0)")
    parser.add_argument(
        "--mask-ratio", type=float, metavar="R", help="share to mask (default: the model's own)"
    )
    parser.add_argument(
        "--mask-strategy", metavar="random|block|grid", help="(default: the model's own)"
    )
    parser.add_argument(
        "--raw-pixels", action="store_true", help="the model predicts pixels as they are"
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Reconstructs, writes the files and prints a line a picture. Raises ValueError or OSError for bad input."""
    names = check_pictures(args.images)

    from segjax.inference.reconstruction import reconstruct

    chosen = {"mask_ratio": args.mask_ratio, "mask_strategy": args.mask_strategy}
    overrides = {name: value for name, value in chosen.items() if value is not None}
    overrides |= {"norm_pix": False} if args.raw_pixels else {}
    model, variables, config = load_model(args, "mae", **overrides)
    for file, name in zip(args.images, names, strict=True):
        found = reconstruct(
            model, variables, read_image(file, percentiles_of(config)), seed=args.seed
        )
        sheet = write_results(
            pathlib.Path(args.out), name, found.image, found.predicted, found.masked
        )
        print(f"{sheet}  {found.masked.sum()} of {found.masked.size} patches masked")
    return 0


def write_results(
    out: pathlib.Path, name: str, image: np.ndarray, predicted: np.ndarray, masked: np.ndarray
) -> pathlib.Path:
    """Writes the pictures, each whole or not at all, and last the sheet, whose path is returned."""
    from segjax import viz
    from segjax.images.encoding import encode_png

    pictures = {
        "masked": viz.hide_patches(image, masked),
        "reconstructed": viz.fill_patches(image, predicted, masked),
        "original": image,
        "sheet": viz.draw_reconstruction_sheet(image[None], predicted[None], masked[None]),
    }
    for kind, picture in pictures.items():
        write_atomic(out / f"{name}_{kind}.png", encode_png(picture))
    return out / f"{name}_sheet.png"
