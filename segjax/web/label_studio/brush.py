"""Brush masks of Label Studio: run lengths of RGBA bytes, packed bit by bit.

A mask is an RGBA image, row by row, whose four channels are 255 inside of the mask and 0 outside.
The bits, most significant first, are:

  32                 number of bytes of the image
  5                  bits per value - 1
  4 x 4              bits of each of four kinds of lengths - 1
  then blocks, until the image is full:
  1                  1: one value repeated, 0: separate values
  2                  kind of the length
  3, 4, 8 or 16      length - 1
  8, or 8 per value  the value or the values
  zeros up to a whole byte
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

_SIZES = np.array([3, 4, 8, 16])  # bits of the four kinds of lengths
_VALUE = 8
_CHANNELS = 4


def encode_brush(mask: np.ndarray) -> list[int]:
    """Encodes a mask for the field "rle" of Label Studio.

    Args:
      mask: bool [H, W].

    Returns:
      Bytes, as numbers 0..255.

    Example:
      >>> encode_brush(np.array([[False, True]]))
      [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]
    """
    flat = np.asarray(mask, bool).reshape(-1)
    # Runs of pixels become runs of bytes, none longer than the longest length
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], edges])[: flat.size]
    lengths = _CHANNELS * np.diff(starts, append=flat.size)
    longest = 1 << int(_SIZES[-1])
    blocks = -(-lengths // longest)
    last = np.cumsum(blocks) - 1
    values = np.repeat(np.where(flat[starts], 255, 0), blocks)
    pieces = np.full(values.size, longest)
    pieces[last] = lengths - (blocks - 1) * longest

    # Each block is a number of at most 27 bits: repeated, kind, length - 1, value
    kinds = np.searchsorted(1 << _SIZES, pieces)
    codes = (((4 + kinds) << _SIZES[kinds]) + pieces - 1 << _VALUE) + values
    body = _write_bits(codes, 3 + _SIZES[kinds] + _VALUE)
    # Sizes, then the blocks
    sizes = [(_CHANNELS * flat.size, 32), (_VALUE - 1, 5), *((size - 1, 4) for size in _SIZES)]
    header = _write_bits(*(np.array(column) for column in zip(*sizes, strict=True)))
    return np.packbits(np.concatenate([header, body])).tolist()


def decode_brush(rle: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Decodes a brush mask: the pixels that are not transparent.

    Args:
      rle: bytes, as numbers 0..255.
      height: of the image.
      width: of the image.

    Returns:
      bool [height, width].

    Raises:
      ValueError: bytes of another format, of an image of another size, or too few.
    """
    if not isinstance(rle, list) or not all(type(x) is int and 0 <= x < 256 for x in rle):
        raise ValueError("a brush mask's rle is not a list of numbers 0..255")
    # Sizes
    reader = _BitReader(bytes(rle))
    count, word = reader.read(32), reader.read(5) + 1
    sizes = [reader.read(4) + 1 for _ in _SIZES]
    if count != _CHANNELS * height * width:
        raise ValueError(
            f"a brush mask's rle has {count} bytes; expected {height} x {width} x {_CHANNELS} = "
            f"{_CHANNELS * height * width} (RGBA): its size is not that of its image"
        )
    if word != _VALUE:
        raise ValueError(f"a brush mask's rle has values of {word} bits; expected {_VALUE}")
    # Blocks of repeated or separate values
    image, position = np.zeros(count, np.uint8), 0
    while position < count:
        repeated, kind = reader.read(1), reader.read(2)
        length = reader.read(sizes[kind]) + 1
        end = position + length
        if end > count:
            raise ValueError(f"a brush mask's rle has more values than its {count} bytes")
        image[position:end] = reader.read(_VALUE) if repeated else reader.read_bytes(length)
        position = end
    return image.reshape(height, width, _CHANNELS)[..., -1] > 0


def _write_bits(values: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Returns the bits of numbers one after another, the most significant first.

    Args:
      values: int [N].
      widths: int [N], number of bits of each.
    """
    places = np.arange(widths.max(initial=0))
    shifts = widths[:, None] - 1 - places
    bits = values[:, None] >> np.maximum(shifts, 0) & 1
    return bits[shifts >= 0].astype(np.uint8)


class _BitReader:
    """Reader of numbers from bits."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, width: int) -> int:
        """Reads a number of at most 32 bits."""
        start, end = self._at, self._advance(width)
        number = int.from_bytes(self._data[start // 8 : -(-end // 8)])
        return number >> -end % 8 & (1 << width) - 1

    def read_bytes(self, count: int) -> np.ndarray:
        """Reads numbers of 8 bits, uint8 [count]."""
        start, end = self._at, self._advance(8 * count)
        part = np.frombuffer(self._data, np.uint8)[start // 8 : -(-end // 8)]
        return np.packbits(np.unpackbits(part)[start % 8 :][: 8 * count])

    def _advance(self, bits: int) -> int:
        self._at += bits
        if self._at > 8 * len(self._data):
            raise ValueError("a brush mask's rle ends early")
        return self._at
