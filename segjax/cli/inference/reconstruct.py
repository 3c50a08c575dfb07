"""Reconstruct images with a masked autoencoder, which sees a quarter of their patches.

  segjax reconstruct photo.jpg --checkpoint runs/mae --out out
  segjax reconstruct *.jpg --checkpoint runs/mae --mask-ratio 0.9 --seed 3 --out out
  segjax reconstruct photo.jpg --checkpoint vit_mae/model.safetensors --raw-pixels --out out

Files in DIR, for each image:
  NAME_original.png       the center of the image, resized to the model's canvas
  NAME_masked.png         the patches that the model sees
  NAME_reconstructed.png  the same with the predicted patches
  NAME_sheet.png          the three side by side

A model that predicts normalized pixels does not predict the mean and contrast of a patch: those of
the original are used. A file of weights does not say which kind it holds. Use --raw-pixels
for a model of unnormalized pixels.

Images are turned upright as their EXIF orientation asks, which is printed. All results refer to the
upright image.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np

from segjax.cli.inference.image_arguments import (
    add_image_arguments,
    add_model_arguments,
    get_percentiles,
    list_image_names,
    load_model,
    read_image,
)
from segjax.files import check_writable, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command. The module's docstring is its help."""
    add_image_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the mask (default 0)"
    )
    parser.add_argument(
        "--mask-ratio",
        type=float,
        metavar="R",
        help="share of masked patches (default: the model's)",
    )
    parser.add_argument(
        "--mask-strategy", metavar="random|block|grid", help="(default: the model's)"
    )
    parser.add_argument(
        "--raw-pixels", action="store_true", help="the model predicts unnormalized pixels"
    )


def run(args: argparse.Namespace, _: Sequence[str]) -> int:
    """Reconstructs, writes the files and prints one line per image.

    You can skip this function: the math is in `segjax.inference.reconstruction` and
    `segjax.models.mae`.

    Raises:
      ValueError: Arguments that do not fit together, or a model of another family.
      OSError: A file that cannot be read or written.
    """
    names = list_image_names(args.images)
    check_writable(args.out)

    from segjax.inference.reconstruction import reconstruct

    # Attributes of the model that the command line overrides
    chosen = {"mask_ratio": args.mask_ratio, "mask_strategy": args.mask_strategy}
    overrides = {name: value for name, value in chosen.items() if value is not None}
    overrides |= {"norm_pix": False} if args.raw_pixels else {}
    model, variables, config = load_model(args, "mae", **overrides)
    # Each image
    for file, name in zip(args.images, names, strict=True):
        image = read_image(file, get_percentiles(config), args.bands)
        result = reconstruct(model, variables, image, seed=args.seed)
        pixels = (result.image, result.predicted, result.masked)
        sheet = write_results(pathlib.Path(args.out), name, *pixels, norm_pix=model.norm_pix)
        print(f"{sheet}  {result.masked.sum()} of {result.masked.size} patches masked")
    return 0


def write_results(
    out: pathlib.Path,
    name: str,
    image: np.ndarray,
    predicted: np.ndarray,
    masked: np.ndarray,
    *,
    norm_pix: bool,
) -> pathlib.Path:
    """Writes the images and, last, the sheet, each atomically.

    Args:
      out: Folder.
      name: Name of the image.
      image: uint8 [S, S, 3], the canvas.
      predicted: uint8 [S, S, 3], the predicted pixels of every patch.
      masked: bool [h, w], the patches that the model did not see.
      norm_pix: The model predicts normalized pixels, whose colors are the original's.

    Returns:
      Path of the sheet.
    """
    from segjax import viz
    from segjax.images.encoding import encode_png

    images = {
        "masked": viz.hide_patches(image, masked),
        "reconstructed": viz.fill_patches(image, predicted, masked),
        "original": image,
        "sheet": viz.draw_reconstruction_sheet(
            image[None], predicted[None], masked[None], colors_from_original=norm_pix
        ),
    }
    for kind, pixels in images.items():
        write_atomic(out / f"{name}_{kind}.png", encode_png(pixels))
    return out / f"{name}_sheet.png"
