"""Masks on the host: run-length encoding, boxes of masks, removal of small regions.

NumPy and pycocotools only, so every part of segjax may import it.
"""

import numpy as np
from pycocotools import mask as coco_mask


class RecordError(ValueError):
    """A record breaks the schema. `reason` is the short form, without names, that reports count."""

    def __init__(self, where: str, field: str, found: str, expected: str):
        self.reason = f"{field}: expected {expected}"
        super().__init__(f"{where}: {field} is {found}; expected {expected}")


def encode_mask(mask: np.ndarray) -> str:
    """COCO compressed run lengths of a mask [H, W] (bool, or numbers of which non-zero is inside)."""
    mask = np.asarray(mask)
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"a mask is [H, W] with H and W at least 1, got shape {mask.shape}")
    return coco_mask.encode(np.asfortranarray((mask != 0).view(np.uint8)))["counts"].decode("ascii")


def encode_mask_crop(part: np.ndarray, corner: tuple[int, int], hw: tuple[int, int]) -> str:
    """COCO compressed run lengths of a mask of which all that is inside lies in a part: the work is that of the part.

    Args:
      part: bool [h, w], at least one pixel a side. corner: (top, left) of the part, px of the mask.
      hw: (height, width) of the mask.
    """
    (top, left), (height, width) = corner, hw
    columns = np.zeros((part.shape[1], part.shape[0] + 2), bool)
    columns[:, 1:-1] = np.asarray(part, bool).T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    changes = (column + left) * height + row + top
    # Where the part fills a column to the bottom and goes on at the top of the next, nothing changes.
    seams = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([seams, seams + 1]))
    runs = np.diff(changes, prepend=0, append=height * width)
    runs = runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs
    return coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)[
        "counts"
    ].decode()


def decode_mask(rle: str, height: int, width: int) -> np.ndarray:
    """Mask bool [height, width] of COCO compressed run lengths.

    Raises RecordError when the runs do not cover height * width pixels; pycocotools itself hands back uninitialised
    memory where they are too few.
    """
    return decode_run_lengths(parse_run_lengths(rle), height, width, "mask")


def decode_run_lengths(runs: np.ndarray, height: int, width: int, where: str) -> np.ndarray:
    """Mask bool [height, width] of run lengths [n], outside first, down the columns. Raises RecordError as above."""
    check_run_lengths(runs, height, width, where)
    inside = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, runs).reshape(width, height).T)


def parse_run_lengths(rle: str) -> np.ndarray:
    """Run lengths int64 [n] of a compressed COCO string: outside first, then alternating, down the columns.

    The code is LEB128-like: 5 bits a character, low bits first, 0x20 marks continuation; from the fourth run
    on each number is the difference to the run two before (pycocotools, rleFrString).
    """
    codes = np.frombuffer(rle.encode("utf-8"), np.uint8).astype(np.int64) - 48
    if codes.size == 0:
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise RecordError(
            "mask", "rle", f"not run lengths ({rle[:20]!r})", "a compressed COCO RLE string"
        )
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
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])  # The very first run is no reference for the third.
    return runs


def check_run_lengths(runs: np.ndarray, height: int, width: int, where: str) -> None:
    """Raises RecordError unless the run lengths are non-negative and cover height * width pixels exactly."""
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


def compute_mask_box(mask: np.ndarray) -> np.ndarray:
    """Exact box float32 [4], x1 y1 x2 y2, of a mask [H, W] that is not empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def remove_small_regions(mask: np.ndarray, smallest: int) -> tuple[np.ndarray, bool]:
    """A mask whose holes below `smallest` pixels are filled, and then its islands below that are dropped.

    Pixels that touch at a corner belong together. If every island is small the largest stays.

    Returns:
      mask bool [H, W], and whether there was any small region.
    """
    holes = _small(~mask, smallest)
    mask = mask | holes
    islands = _small(mask, smallest)
    kept = mask & ~islands
    if islands.any() and not kept.any():
        kept = _largest(mask)
    return kept, bool(holes.any() or islands.any())


def _small(mask: np.ndarray, smallest: int) -> np.ndarray:
    """The pixels of the components of a mask that have fewer than `smallest`."""
    labels, sizes = _components(mask)
    return (sizes < smallest)[labels] & mask


def _largest(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask's largest component, the first of equals."""
    labels, sizes = _components(mask)
    return labels == 1 + np.argmax(sizes[1:])


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels int [H, W], 0 outside; pixels of each label) of 8-connected components."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return labels, np.bincount(labels.ravel(), minlength=count + 1)
