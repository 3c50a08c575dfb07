"""Examples for CLIP: crops of objects, and a phrase for each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from segjax.data.examples.place_objects import decode_record_image
from segjax.images.squares import crop_square
from segjax.masks import decode_mask
from segjax.text.tokenizers import load_tokenizer


class CaptionedExample:
    """Callable (record, rng) -> example of N crops and their phrases.

    Example fields: ``image`` uint8 [N, S, S, 3], ``ids`` int32 [N, context], ``valid`` bool [N],
    and ``weight`` float32, 1 (0 for placeholders).

    A crop is the square around an object's box, scaled about its center. Training scales by a
    random factor, may hide what is not the object, and takes a random phrase. Evaluation takes
    the middle of the factors and the first phrase. Objects without phrases are left out.

    Args:
      canvas: side S of a crop in pixels.
      tokenizer: name of the tokenizer.
      context: number of tokens.
      train: True for random crops and phrases.
      count: number N of objects of an image, chosen at random. Evaluation takes the first.
      expand: (low, high) of the factor.
      hide: probability that pixels outside of the mask are filled with `color`.
      color: fill color, RGB in 0..255, also outside of the image.
    """

    def __init__(
        self,
        canvas: int,
        tokenizer: str,
        context: int,
        *,
        train: bool,
        count: int,
        expand: tuple[float, float],
        hide: float,
        color: tuple[float, float, float],
    ):
        if not 0 < expand[0] <= expand[1]:
            raise ValueError(f"config.data.expand is {expand}; expected 0 < low <= high")
        if count < 1:
            raise ValueError(f"config.data.per_image is {count}; expected at least 1")
        self.canvas, self.tokenizer, self.context = canvas, tokenizer, context
        self.train, self.count, self.expand, self.hide = train, count, expand, hide
        self.color = tuple(round(value) for value in color)

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Makes the example of a record.

        Raises:
          ImageError: the image cannot be read.
        """
        objects = record["objects"]
        phrases = objects.get("phrases", [""] * len(objects["rle"]))
        usable = [i for i, text in enumerate(phrases) if text and not objects["crowd"][i]]
        if self.train:
            rng.shuffle(usable)
        example, texts = self.placeholder(), []
        if not usable:
            return example
        pixels = decode_record_image(record)
        for row, index in enumerate(usable[: self.count]):
            lines = phrases[index].split("\n")
            texts.append(lines[rng.integers(len(lines))] if self.train else lines[0])
            example["image"][row] = self._crop(record, pixels, index, rng)
        tokens = load_tokenizer(self.tokenizer)(texts, self.context)
        example["ids"][: len(texts)] = tokens
        example["valid"][: len(texts)] = True
        return example | {"weight": np.float32(1)}

    def _crop(
        self, record: Mapping, pixels: np.ndarray, index: int, rng: np.random.Generator
    ) -> np.ndarray:
        factor = rng.uniform(*self.expand) if self.train else sum(self.expand) / 2
        mask = None
        if self.train and rng.random() < self.hide:
            rle = record["objects"]["rle"][index]
            mask = decode_mask(rle, record["height"], record["width"])
        box = record["objects"]["box"][index]
        return crop_square(pixels, box, self.canvas, expand=factor, mask=mask, color=self.color)

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns an example of weight 0."""
        shape = (self.count, self.canvas, self.canvas, 3)
        return {
            "image": np.zeros(shape, np.uint8),
            "ids": np.zeros((self.count, self.context), np.int32),
            "valid": np.zeros(self.count, bool),
            "weight": np.float32(0),
        }
