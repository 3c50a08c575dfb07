"""CLIP's tokenizer: byte pairs of lower-case words (arXiv 2103.00020, section 2.4)."""

import functools
import html
from collections.abc import Sequence

import numpy as np

from segjax.text.vocabulary import MERGES

CONTEXT = 77
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
# Words, single digits, punctuation; contractions are words of their own.
_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class BytePairTokenizer:
    """Tokenizer of the published CLIPs.

    Example:
      tokenizer = BytePairTokenizer(read_merges(find_vocabulary()))
      ids = tokenizer(["a photo of a cat"])           # int32 [1, 77]

    Attributes:
      vocabulary: number of token ids. The last two begin and end a text.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        """Builds the tokenizer.

        Args:
          merges: pairs of symbols in the order in which they were learned.

        Raises:
          ImportError: the package regex is not installed.
        """
        try:
            import regex
        except ImportError as error:
            raise ImportError(
                "CLIP's tokenizer needs the package regex: pip install 'segjax[clip]'"
            ) from error
        self._split = regex.compile(_PATTERN, regex.IGNORECASE).findall
        self._bytes = _map_bytes()
        letters = list(self._bytes.values())
        symbols = [*letters, *(letter + _WORD_END for letter in letters)]
        symbols += ["".join(pair) for pair in merges]
        symbols += [START, END]
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}
        self._ranks = {pair: i for i, pair in enumerate(merges)}
        self._cached = functools.lru_cache(maxsize=65536)(self._merge)
        self.vocabulary = len(symbols)

    def __call__(
        self, texts: Sequence[str], context: int = CONTEXT, *, truncate: bool = False
    ) -> np.ndarray:
        """Returns the token ids of texts, int32 [N, context], padded with 0.

        Args:
          texts: any texts. An empty one is the start and the end alone.
          context: number of tokens.
          truncate: cut longer texts; the last token is the end.

        Raises:
          ValueError: a text with more tokens, which is not to be cut.
        """
        start, end = self._ids[START], self._ids[END]
        return pad_tokens(
            texts, [[start, *self.encode(text), end] for text in texts], context, truncate
        )

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text without its start and end."""
        ids: list[int] = []
        for word in self._split(_clean(text)):
            if word in (START, END):
                ids.append(self._ids[word])
                continue
            letters = "".join(self._bytes[byte] for byte in word.encode())
            ids += [self._ids[symbol] for symbol in self._cached(letters)]
        return ids

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of token ids, without its ends and the padding."""
        letters = {letter: byte for byte, letter in self._bytes.items()}
        symbols = list(self._ids)
        row = [int(i) for i in ids]
        ends = (self._ids[START], self._ids[END])
        # Padding is id 0, which is a symbol too, so the text ends at its end
        row = row[: row.index(ends[1])] if ends[1] in row else row
        text = "".join(symbols[i] for i in row if i not in ends)
        parts = text.split(_WORD_END)
        return " ".join(
            bytes(letters[letter] for letter in part).decode(errors="replace") for part in parts
        ).strip()

    def _merge(self, letters: str) -> tuple[str, ...]:
        """Merges the symbols of a word, the pair that was learned first before others."""
        symbols = [*letters[:-1], letters[-1] + _WORD_END]
        while len(symbols) > 1:
            pairs = set(zip(symbols, symbols[1:], strict=False))
            best = min(pairs, key=lambda pair: self._ranks.get(pair, MERGES))
            if best not in self._ranks:
                break
            merged, i = [], 0
            while i < len(symbols):
                if tuple(symbols[i : i + 2]) == best:
                    merged.append("".join(best))
                    i += 2
                else:
                    merged.append(symbols[i])
                    i += 1
            symbols = merged
        return tuple(symbols)


def pad_tokens(
    texts: Sequence[str], rows: Sequence[Sequence[int]], context: int, truncate: bool
) -> np.ndarray:
    """Returns rows of ids, each with its start and end, as int32 [N, context] padded with 0.

    Args:
      texts: texts of the rows, for the message.
      rows: ids.
      context: number of tokens.
      truncate: cut longer rows; their last id stays the end.

    Raises:
      ValueError: a row is longer, and `truncate` is False.
    """
    ids = np.zeros((len(rows), context), np.int32)
    for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
        if len(row) > context:
            if not truncate:
                shown = text if len(text) <= 60 else text[:60] + "..."
                raise ValueError(
                    f"text {i} has {len(row)} tokens, and this CLIP reads {context}: {shown!r}; "
                    "shorten it, or pass truncate=True"
                )
            row = [*row[: context - 1], row[-1]]
        ids[i, : len(row)] = row
    return ids


def _clean(text: str) -> str:
    """Returns a text in lower case, with repaired characters and single spaces."""
    try:
        import ftfy
    except ImportError:  # it repairs broken encodings; other texts do not need it
        fixed = text
    else:
        fixed = ftfy.fix_text(text)
    return " ".join(html.unescape(html.unescape(fixed)).split()).lower()


def _map_bytes() -> dict[int, str]:
    """Maps each byte to a character that can be seen, as the vocabulary's file writes it."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    letters = [chr(byte) for byte in visible] + [chr(256 + i) for i in range(len(hidden))]
    return dict(zip([*visible, *hidden], letters, strict=True))
