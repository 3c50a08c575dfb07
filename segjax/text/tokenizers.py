"""Tokenizers by name: CLIP's own, and a small one for captions of synthetic scenes."""

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from segjax.text.bpe import BytePairTokenizer
from segjax.text.vocabulary import find_vocabulary, read_merges
from segjax.text.words import WordTokenizer


class Tokenizer(Protocol):
    """From texts to token ids."""

    vocabulary: int

    def __call__(self, texts: Sequence[str], context: int, *, truncate: bool = False) -> np.ndarray:
        """Returns int32 [N, context]. See `segjax.text.bpe.BytePairTokenizer`."""

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of token ids [context], without its ends and the padding."""


@functools.cache  # an example of training calls it, and the vocabulary is searched on disk
def load_tokenizer(name: str) -> Tokenizer:
    """Returns the tokenizer of a name.

    Args:
      name: "clip" (the published models') or "captions" (synthetic scenes).

    Raises:
      ValueError: unknown name.
      FileNotFoundError: the vocabulary of "clip" is not there.
    """
    if name == "clip":
        return BytePairTokenizer(read_merges(find_vocabulary()))
    if name == "captions":
        return WordTokenizer()
    raise ValueError(f"tokenizer {name!r} is unknown; choose clip or captions")


def tokenize(
    name: str, texts: str | Sequence[str], context: int, *, truncate: bool = False
) -> np.ndarray:
    """Returns the token ids of one text or several, int32 [N, context].

    Args:
      name: of the tokenizer.
      texts: one text or several.
      context: number of tokens.
      truncate: cut longer texts.

    Raises:
      TypeError: not texts.
      ValueError: a text with too many tokens, or no text.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    wrong = [text for text in texts if not isinstance(text, str)]
    if wrong:
        raise TypeError(f"texts hold a {type(wrong[0]).__name__}; expected str")
    if not texts:
        raise ValueError("no text to tokenize")
    return load_tokenizer(name)(texts, context, truncate=truncate)
