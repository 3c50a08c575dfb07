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

    Example fields: ``image`` uint8 [N, S, S, 3], ``ids`` int32 [N, context], ``said`` int32
    [N, context] (ids of all words in an object's phrases), ``valid`` bool [N], and ``weight``
    float32, 1 (0 for placeholders).

    A crop is the square around an object's box, scaled about its center. Training scales by a
    random factor, may hide what is not the object, and takes a random phrase, short ones as
    often as long ones. Evaluation takes the middle of the factors and the first phrase, which says
    most. Objects without phrases are left out.

    Args:
      canvas: side S of a crop in pixels.
      tokenizer: name of the tokenizer.
      context: number of tokens.
      train: True for random crops and phrases.
      count: number N of objects of an image, chosen at random. Evaluation takes the first.
      expand: (low, high) of the factor.
      hide: probability that pixels outside of the mask are filled with `color`.
      longest: number of words of the longest phrase. Longer ones are left out.
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
        longest: int,
        color: tuple[float, float, float],
    ):
        if not 0 < expand[0] <= expand[1]:
            raise ValueError(f"config.data.expand is {expand}; expected 0 < low <= high")
        if count < 1:
            raise ValueError(f"config.data.per_image is {count}; expected at least 1")
        self.canvas, self.tokenizer, self.context = canvas, tokenizer, context
        self.train, self.count, self.expand, self.hide = train, count, expand, hide
        self.longest = longest
        self.color = tuple(round(value) for value in color)

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Makes the example of a record.

        Raises:
          ImageError: the image cannot be read.
        """
        objects = record["objects"]
        phrases = [self._list_phrases(text) for text in objects.get("phrases", ())]
        usable = [i for i, lines in enumerate(phrases) if lines and not objects["crowd"][i]]
        if self.train:
            rng.shuffle(usable)
        example, texts, said = self.placeholder(), [], []
        if not usable:
            return example
        pixels = decode_record_image(record)
        for row, index in enumerate(usable[: self.count]):
            lines = phrases[index]
            texts.append(_choose_phrase(lines, rng) if self.train else lines[0])
            words = dict.fromkeys(word for line in lines for word in line.split())
            said.append(" ".join(list(words)[: self.context - 2]))
            example["image"][row] = self._crop(record, pixels, index, rng)
        tokenize = load_tokenizer(self.tokenizer)
        example["ids"][: len(texts)] = tokenize(texts, self.context)
        example["said"][: len(texts)] = tokenize(said, self.context, truncate=True)
        example["valid"][: len(texts)] = True
        return example | {"weight": np.float32(1)}

    def _list_phrases(self, text: str) -> list[str]:
        return [line for line in text.split("\n") if 0 < len(line.split()) <= self.longest]

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
            "said": np.zeros((self.count, self.context), np.int32),
            "valid": np.zeros(self.count, bool),
            "weight": np.float32(0),
        }


def _choose_phrase(lines: list[str], rng: np.random.Generator) -> str:
    """Chooses a phrase: first how many words it has, then one of those."""
    by_length: dict[int, list[str]] = {}
    for line in lines:
        by_length.setdefault(len(line.split()), []).append(line)
    lengths = sorted(by_length)
    own = by_length[lengths[rng.integers(len(lengths))]]
    return own[rng.integers(len(own))]
