"""Run lengths of masks: parsing COCO's two forms, checking that they fit an image, decoding.

Run lengths come from files that others made, so every value is checked before it is used. Sums of
runs that are too long would wrap around, and decoders would then write outside their memory.
`segjax.masks` describes the format.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

# Largest mask, in pixels. It takes 1 GiB when it is decoded, and pycocotools counts in 32 bits.
MAX_PIXELS = 2**30


class RecordError(ValueError):
    """Error for a record that breaks the schema.

    Attributes:
      reason: short form of the message without names, which reports count.
    """

    def __init__(self, where: str, field: str, found: str, expected: str):
        self.reason = f"{field}: expected {expected}"
        super().__init__(f"{where}: {field} is {found}; expected {expected}")


def parse_run_lengths(rle: str | bytes, where: str = "mask") -> np.ndarray:
    """Parses a compressed COCO RLE string into run lengths int64 [n].

    The format resembles LEB128: each character holds 5 bits of a number, low bits first, and
    0x20 marks that more follow. From the fourth run on, each number is the difference from the
    run two before it (rleFrString in pycocotools). Whether the runs fit an image is not checked.

    Args:
      rle: the string. Any other value raises.
      where: name of the mask in error messages.

    Raises:
      RecordError: the string is not in this format.
    """
    if not isinstance(rle, str | bytes):
        raise RecordError(where, "rle", _describe(rle), "a compressed COCO RLE string")
    data = rle.encode("utf-8", "surrogatepass") if isinstance(rle, str) else rle
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise RecordError(
            where, "rle", f"not run lengths ({rle[:20]!r})", "a compressed COCO RLE string"
        )
    numbers, digits = _parse_numbers(codes)
    if digits.max() > 8:
        raise RecordError(where, "rle", "a run length beyond 2**40", "a compressed COCO RLE string")
    # Differences to runs. The format never subtracts the first run from the third.
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    return runs


def check_run_lengths(runs: Any, height: Any, width: Any, where: str) -> np.ndarray:
    """Checks that run lengths are whole numbers and cover an image exactly.

    Args:
      runs: int [n], or any value of a file in its place.
      height: of the image, in pixels, or any value of a file in its place.
      width: of the image, in pixels, or any value of a file in its place.
      where: name of the mask in error messages.

    Returns:
      The run lengths as int64 [n], each in 0..height * width.

    Raises:
      RecordError: the size is not two positive whole numbers of at most `MAX_PIXELS` pixels, or
        the runs do not fit it.
    """
    height, width = check_mask_size(height, width, where)
    found = _find_fault(runs, height * width)
    # No run is longer than the image, so this sum cannot wrap around.
    total = 0 if found else int(np.sum(runs, dtype=np.int64))
    if not found and total != height * width:
        found = f"runs of {total} pixels in all"
    if found:
        raise RecordError(
            where, "rle", f"{found} for an image of {height} x {width}", "runs that fit the image"
        )
    return np.asarray(runs, np.int64)


def check_mask_size(height: Any, width: Any, where: str) -> tuple[int, int]:
    """Returns the height and width of a mask as int. Arguments are those of `check_run_lengths`.

    Raises:
      RecordError: they are not two positive whole numbers of at most `MAX_PIXELS` pixels.
    """
    if not all(_is_whole(value) and value >= 1 for value in (height, width)):
        raise RecordError(
            where,
            "size",
            f"{_describe(height)} and {_describe(width)}",
            "height and width as whole numbers of at least 1",
        )
    if int(height) * int(width) > MAX_PIXELS:
        raise RecordError(
            where,
            "size",
            f"{_describe(height)} x {_describe(width)} pixels",
            f"a mask of at most {MAX_PIXELS} pixels",
        )
    return int(height), int(width)


def decode_run_lengths(runs: Any, height: Any, width: Any, where: str) -> np.ndarray:
    """Decodes run lengths, down the columns and starting outside, to bool [height, width].

    Arguments and errors are those of `check_run_lengths`.
    """
    runs = check_run_lengths(runs, height, width, where)
    inside = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, runs).reshape(width, height).T)


def compress_run_lengths(runs: list[int], height: int, width: int) -> str:
    """Compresses run lengths to a COCO RLE string. They must fit the size."""
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return packed["counts"].decode("ascii")


def parse_rle(rle: Any, where: str = "mask") -> tuple[np.ndarray, int, int]:
    """Parses and checks COCO's {"size": [height, width], "counts": ...}.

    Args:
      rle: the mapping. The counts are a compressed string, bytes, or a list of run lengths.
      where: name of the mask in error messages.

    Returns:
      A triple of the run lengths, int64 [n], the height and the width.

    Raises:
      RecordError: anything else, or runs that do not fit the size.
    """
    size = rle.get("size") if isinstance(rle, Mapping) else None
    if not isinstance(size, list | tuple) or len(size) != 2 or "counts" not in rle:
        raise RecordError(
            where, "rle", _describe(rle), 'a mapping with "size": [height, width] and "counts"'
        )
    counts = rle["counts"]
    runs = parse_run_lengths(counts, where) if isinstance(counts, str | bytes) else counts
    height, width = size
    return check_run_lengths(runs, height, width, where), int(height), int(width)


def find_broken_rles(rles: Sequence[str], pixels: Sequence[int]) -> np.ndarray:
    """Finds the compressed COCO RLE strings that do not fit their images, many at a time.

    For short strings this is many times as fast as one `parse_run_lengths` after another, and
    `parse_rle` then explains the ones that it finds.

    Args:
      rles: the strings, of at most 2**23 characters together.
      pixels: number of pixels of the image of each, at most `MAX_PIXELS`.

    Returns:
      Indices of the broken strings, int64 [n].
    """
    # Strings that are empty, or whose characters cannot form numbers
    form = re.compile("[0-o]*[0-O]")
    broken = [index for index, rle in enumerate(rles) if not form.fullmatch(rle)]
    kept = np.setdiff1d(np.arange(len(rles)), broken)
    if kept.size == 0:
        return np.array(broken, np.int64)
    text = "".join(rles[index] for index in kept)
    numbers, digits = _parse_numbers(np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48)
    ends = np.cumsum([len(rles[index]) for index in kept])
    # Numbers of each string, and their positions in it
    counts = np.diff(np.searchsorted(np.cumsum(digits), ends, side="right"), prepend=0)
    first = np.cumsum(counts) - counts
    position = np.arange(numbers.size) - np.repeat(first, counts)
    # From the fourth on, numbers are differences to the one two before, within their string.
    runs = numbers.copy()
    for chain in (position % 2 == 1, (position % 2 == 0) & (position > 0)):
        sums = np.cumsum(np.where(chain, numbers, 0))
        before = np.concatenate([[0], sums])[first]
        runs = np.where(chain, sums - np.repeat(before, counts), runs)
    expected = np.asarray(pixels, np.int64)[kept]
    is_bad = (digits > 8) | (runs < 0) | (runs > np.repeat(expected, counts))
    # Sums of the others cannot wrap around.
    total = np.add.reduceat(np.where(is_bad, 0, runs), first)
    is_broken = np.logical_or.reduceat(is_bad, first) | (total != expected)
    return np.union1d(broken, kept[is_broken]).astype(np.int64)


def _parse_numbers(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parses the characters of complete numbers, as int64 [n] in 0..63.

    Returns:
      The numbers, int64 [m], and how many characters each has. Those of more than 8 are wrong.
    """
    last = (codes & 0x20) == 0
    start = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    digits = np.diff(np.append(start, codes.size))
    shift = 5 * np.minimum(np.arange(codes.size) - np.repeat(start, digits), 8)
    numbers = np.add.reduceat((codes & 0x1F) << shift, start)
    negative = (codes[last] & 0x10) != 0
    return numbers - np.where(negative, np.int64(1) << (shift[last] + 5), 0), digits


def decode_rle(rle: Any, where: str = "mask") -> np.ndarray:
    """Decodes COCO's run-length encoding to bool [H, W]. See `parse_rle` for its arguments."""
    return decode_run_lengths(*parse_rle(rle, where), where)


def _find_fault(runs: Any, pixels: int) -> str:
    """Describes why no mask of `pixels` pixels has these runs, before they are summed, or ""."""
    if isinstance(runs, np.ndarray):
        if runs.ndim != 1 or (runs.size and runs.dtype.kind not in "iu"):
            return f"an array {list(runs.shape)} of {runs.dtype}"
    elif not isinstance(runs, list | tuple):
        return _describe(runs)
    elif not all(map(_is_whole_type, set(map(type, runs)))):
        wrong = next(run for run in runs if not _is_whole(run))
        return f"a list with {_describe(wrong)}"
    if len(runs) == 0:
        return ""
    is_array = isinstance(runs, np.ndarray)
    low, high = (runs.min(), runs.max()) if is_array else (min(runs), max(runs))
    if low < 0:
        return "a negative run"
    # Python's integers do not overflow, unlike NumPy's.
    too_long = int(high) > pixels
    return f"runs of {_describe(sum(map(int, runs)))} pixels in all" if too_long else ""


def _is_whole_type(kind: type) -> bool:
    return issubclass(kind, int | np.integer) and kind is not bool


def _is_whole(value: Any) -> bool:
    return _is_whole_type(type(value))


def _describe(value: Any) -> str:
    """Describes a value in a few words. A long or deeply nested one is not written out."""
    if _is_whole(value):
        return str(value) if abs(int(value)) < 2**63 else "2**63 or more"
    if isinstance(value, float | bool):
        return repr(value)
    return f"{value[:20]!r}" if isinstance(value, str) else f"a {type(value).__name__}"
