"""Binary masks on the host: run-length encoding, boxes of masks, removal of small regions.

A mask travels as its run-length encoding (RLE) in COCO's form: pixels are read down the columns,
and runs of pixels outside and inside the mask alternate, starting outside. `encode_mask` and
`decode_mask` convert between masks and RLE strings. The functions on runs (`parse_run_lengths`,
`check_run_lengths`, `decode_run_lengths`) are the steps in between.

This module needs NumPy and pycocotools only, so every part of segjax may import it.

Example:
  >>> mask = np.zeros((2, 3), bool)
  >>> mask[1, 1:] = True
  >>> rle = encode_mask(mask)
  >>> parse_run_lengths(rle).tolist()
  [3, 1, 1, 1]
  >>> bool((decode_mask(rle, 2, 3) == mask).all())
  True
"""

import numpy as np
from pycocotools import mask as coco_mask


class RecordError(ValueError):
    """Error for a record that breaks the schema.

    Attributes:
      reason: short form of the message without names, which reports count.
    """

    def __init__(self, where: str, field: str, found: str, expected: str):
        self.reason = f"{field}: expected {expected}"
        super().__init__(f"{where}: {field} is {found}; expected {expected}")


# Masks to run-length encoding


def encode_mask(mask: np.ndarray) -> str:
    """Encodes a mask as a compressed COCO RLE string.

    Args:
      mask: bool [H, W], or numbers of which non-zero ones are inside.

    Raises:
      ValueError: the mask is not two-dimensional, or has no pixels.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"a mask is [H, W] with H and W at least 1, got shape {mask.shape}")
    return coco_mask.encode(np.asfortranarray((mask != 0).view(np.uint8)))["counts"].decode("ascii")


def encode_mask_crop(part: np.ndarray, corner: tuple[int, int], hw: tuple[int, int]) -> str:
    """Encodes a large mask from the crop that holds all of its inside pixels.

    The result equals `encode_mask` of the full mask. The work grows with the crop only, which
    matters for thousands of small masks on a large image.

    Args:
      part: bool [h, w], the crop, with at least one pixel on each side.
      corner: (top, left) of the crop in pixels of the full mask.
      hw: (height, width) of the full mask.

    Returns:
      Compressed COCO RLE string of the full mask.
    """
    (top, left), (height, width) = corner, hw
    # Positions, down the columns of the full mask, at which the value changes
    columns = np.zeros((part.shape[1], part.shape[0] + 2), bool)
    columns[:, 1:-1] = np.asarray(part, bool).T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    changes = (column + left) * height + row + top
    # A crop that fills one column to the bottom and goes on at the top of the next one ends and
    # starts a run at the same position. Neither is a change.
    seams = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([seams, seams + 1]))
    # Run lengths; COCO leaves out an empty last run
    runs = np.diff(changes, prepend=0, append=height * width)
    runs = runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs
    packed = coco_mask.frPyObjects(
        {"size": [height, width], "counts": runs.tolist()}, height, width
    )
    return packed["counts"].decode()


# Run-length encoding to masks


def decode_mask(rle: str, height: int, width: int) -> np.ndarray:
    """Decodes a compressed COCO RLE string to a mask bool [height, width].

    Unlike pycocotools, which returns uninitialized memory for runs that are too short, this
    checks that the runs fit.

    Raises:
      RecordError: the string is not an RLE, or its runs do not cover height * width pixels.
    """
    return decode_run_lengths(parse_run_lengths(rle), height, width, "mask")


def parse_run_lengths(rle: str) -> np.ndarray:
    """Parses a compressed COCO RLE string into run lengths int64 [n].

    The format resembles LEB128: each character holds 5 bits of a number, low bits first, and
    0x20 marks that more follow. From the fourth run on, each number is the difference from the
    run two before it (rleFrString in pycocotools).

    Raises:
      RecordError: the string is not in this format.
    """
    codes = np.frombuffer(rle.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise RecordError(
            "mask", "rle", f"not run lengths ({rle[:20]!r})", "a compressed COCO RLE string"
        )
    # Characters to numbers
    last = (codes & 0x20) == 0
    start = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    digit = np.arange(codes.size) - np.repeat(start, np.diff(np.append(start, codes.size)))
    if digit.max() > 7:
        raise RecordError(
            "mask", "rle", "a run length beyond 2**40", "a compressed COCO RLE string"
        )
    numbers = np.add.reduceat((codes & 0x1F) << (5 * digit), start)
    negative = (codes[last] & 0x10) != 0
    numbers -= np.where(negative, np.int64(1) << (5 * (digit[last] + 1)), 0)
    # Differences to runs. The format never subtracts the first run from the third.
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    return runs


def check_run_lengths(runs: np.ndarray, height: int, width: int, where: str) -> None:
    """Raises RecordError unless run lengths are non-negative and cover the image exactly.

    Args:
      runs: int [n].
      height: of the image, in pixels.
      width: of the image, in pixels.
      where: name of the mask in error messages.
    """
    total = int(np.sum(runs))
    if total != height * width or (len(runs) and np.min(runs) < 0):
        found = (
            f"runs of {total} pixels in all"
            if len(runs) == 0 or np.min(runs) >= 0
            else "a negative run"
        )
        raise RecordError(
            where, "rle", f"{found} for an image of {height} x {width}", "runs that fit the image"
        )


def decode_run_lengths(runs: np.ndarray, height: int, width: int, where: str) -> np.ndarray:
    """Decodes run lengths to a mask bool [height, width].

    Args:
      runs: int [n], down the columns, starting outside.
      height: of the mask, in pixels.
      width: of the mask, in pixels.
      where: name of the mask in error messages.

    Raises:
      RecordError: the runs do not cover height * width pixels.
    """
    check_run_lengths(runs, height, width, where)
    inside = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, runs).reshape(width, height).T)


# Boxes of masks


def compute_mask_box(mask: np.ndarray) -> np.ndarray:
    """Computes the exact box of a mask that is not empty.

    Args:
      mask: bool [H, W].

    Returns:
      float32 [4], x1 y1 x2 y2 in pixels. Edges are continuous: a mask that fills pixel columns
      a..b has x1 = a and x2 = b + 1.
    """
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


# Small regions


def remove_small_regions(mask: np.ndarray, smallest: int) -> tuple[np.ndarray, bool]:
    """Fills small holes of a mask, then drops its small islands.

    Pixels that touch at a corner belong together (8-connectivity). If every island is small, the
    largest one stays.

    Args:
      mask: bool [H, W].
      smallest: regions with fewer pixels than this are small.

    Returns:
      A pair of the new mask, bool [H, W], and True if there was a small region.
    """
    holes = _find_small_components(~mask, smallest)
    mask = mask | holes
    islands = _find_small_components(mask, smallest)
    cleaned = mask & ~islands
    if islands.any() and not cleaned.any():
        cleaned = _find_largest_component(mask)
    return cleaned, bool(holes.any() or islands.any())


def _find_small_components(mask: np.ndarray, smallest: int) -> np.ndarray:
    """Returns the pixels of the components that have fewer than `smallest` pixels."""
    labels, sizes = _label_components(mask)
    return (sizes < smallest)[labels] & mask


def _find_largest_component(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels of the largest component, the first one of equals."""
    labels, sizes = _label_components(mask)
    return labels == 1 + np.argmax(sizes[1:])


def _label_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels the 8-connected components of a mask.

    Returns:
      A pair of labels int [H, W], 0 outside, and the number of pixels of each label.
    """
    # SciPy is imported late: most users of this module never remove regions.
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return labels, np.bincount(labels.ravel(), minlength=count + 1)
