"""Words of the captions of synthetic scenes, and a tokenizer for them."""

import difflib
from collections.abc import Sequence

import numpy as np

from segjax.text.bpe import pad_tokens

COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
TEXTURES = ("plain", "striped", "dotted", "checked")
SHAPES = ("ellipse", "rectangle", "triangle", "star", "cross", "arrow")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
_RELATION_WORDS = ("left", "right", "above", "below")
WORDS = ("a", "the", "of", "object", *_RELATION_WORDS, *SIZES, *COLORS, *TEXTURES, *SHAPES)
# Kinds of phrases, the first that applies
KINDS = ("relation", "size", "combination", "color", "texture", "shape")


class WordTokenizer:
    """Tokenizer whose tokens are the words of captions.

    Example:
      >>> WordTokenizer()(["a red star"], context=6).tolist()
      [[62, 1, 11, 27, 63, 0]]

    Attributes:
      vocabulary: number of token ids. The last two begin and end a text. Some are not used.
    """

    vocabulary = 64

    def __init__(self) -> None:
        self._ids = {word: i + 1 for i, word in enumerate(WORDS)}

    def __call__(self, texts: Sequence[str], context: int, *, truncate: bool = False) -> np.ndarray:
        """Returns the token ids of texts, int32 [N, context], padded with 0.

        Args:
          texts: captions. Case and commas do not matter.
          context: number of tokens.
          truncate: cut longer texts; the last token is the end.

        Raises:
          ValueError: a text with an unknown word, or with too many.
        """
        start, end = self.vocabulary - 2, self.vocabulary - 1
        rows = [[start, *map(self._find, self._split(text)), end] for text in texts]
        return pad_tokens(texts, rows, context, truncate)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of token ids, without its ends and the padding."""
        return " ".join(WORDS[i - 1] for i in ids if 0 < i <= len(WORDS))

    def _split(self, text: str) -> list[str]:
        return text.lower().replace(",", " ").replace(".", " ").split()

    def _find(self, word: str) -> int:
        if word not in self._ids:
            near = difflib.get_close_matches(word, self._ids, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{word!r} is not a word of this CLIP, which was trained on captions of synthetic "
                f"scenes{hint}; it knows {', '.join(WORDS)}"
            )
        return self._ids[word]


def find_kind(phrase: str) -> str:
    """Returns the kind of a phrase of synthetic captions, one of `KINDS`.

    Example:
      >>> find_kind("the large star"), find_kind("the red star"), find_kind("the star")
      ('size', 'combination', 'shape')
    """
    words = set(phrase.split())
    if words & set(_RELATION_WORDS):
        return "relation"
    if words & set(SIZES):
        return "size"
    named = [
        kind
        for kind, group in (("color", COLORS), ("texture", TEXTURES), ("shape", SHAPES))
        if words & set(group)
    ]
    return named[0] if len(named) == 1 else "combination"
