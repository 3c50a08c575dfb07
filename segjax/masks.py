"""Binary masks on the host: run-length encoding, boxes of masks, removal of small regions.

A mask travels as its run-length encoding (RLE) in COCO's form: pixels are read down the columns,
and runs of pixels outside and inside the mask alternate, starting outside. `encode_mask` and
`decode_mask` convert between masks and RLE strings. The steps in between, and COCO's mapping of
size and counts, are in `segjax.run_lengths`. All of its names can be imported from here.

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

from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from segjax.run_lengths import (
    MAX_PIXELS,
    RecordError,
    check_mask_size,
    check_run_lengths,
    decode_rle,
    decode_run_lengths,
    parse_rle,
    parse_run_lengths,
)

__all__ = [
    "MAX_PIXELS",
    "EncodedRegion",
    "RecordError",
    "check_mask_size",
    "check_run_lengths",
    "compute_mask_box",
    "decode_mask",
    "decode_rle",
    "decode_run_lengths",
    "encode_label_map",
    "encode_mask",
    "encode_mask_crop",
    "parse_rle",
    "parse_run_lengths",
    "remove_small_regions",
]


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
    return _compress_runs(runs.tolist(), height, width)


class EncodedRegion(NamedTuple):
    """One value of a label map, with the mask of its pixels.

    Attributes:
      value: of the pixels.
      rle: mask, as a compressed COCO RLE string.
      box: float32 [4], see `compute_mask_box`.
      area: number of pixels.
    """

    value: int
    rle: str
    box: np.ndarray
    area: int


def encode_label_map(labels: np.ndarray) -> list[EncodedRegion]:
    """Encodes the mask of each value above 0 of a label map.

    The map is read once, however many values it has. The time grows with the number of pixels and
    of runs, and not with pixels times values.

    Args:
      labels: int [H, W].

    Returns:
      One region per value, in increasing order.
    """
    height, width = check_mask_size(*np.shape(labels), "label map")
    # Runs of equal values, down the columns
    flat = np.asarray(labels).T.reshape(-1)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    # Group the runs by value, each group in the order of its positions
    inside = np.flatnonzero(flat[starts] > 0)
    order = inside[np.argsort(flat[starts[inside]], kind="stable")]
    if order.size == 0:
        return []
    starts, lengths = starts[order], lengths[order]
    values = flat[starts]
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    boxes = _bound_runs(starts, lengths, first, height)
    areas = np.add.reduceat(lengths, first)
    # Runs outside and inside alternate. The first one begins at pixel 0.
    ends = starts + lengths
    outside = starts - np.concatenate([[0], ends[:-1]])
    outside[first] = starts[first]
    runs = np.stack([outside, lengths], axis=1)
    regions = []
    for index, (begin, end) in enumerate(zip(first, [*first[1:], len(runs)], strict=True)):
        counts = runs[begin:end].reshape(-1).tolist()
        # COCO leaves out an empty last run.
        rest = height * width - int(ends[end - 1])
        rle = _compress_runs(counts + [rest] * (rest > 0), height, width)
        regions.append(EncodedRegion(int(values[begin]), rle, boxes[index], int(areas[index])))
    return regions


def _bound_runs(
    starts: np.ndarray, lengths: np.ndarray, first: np.ndarray, height: int
) -> np.ndarray:
    """Computes the box of each group of runs, float32 [groups, 4]. `first` begins the groups."""
    left, top = np.divmod(starts, height)
    right, bottom = np.divmod(starts + lengths - 1, height)
    # A run that reaches into another column has pixels in the first and in the last row.
    top, bottom = np.where(left < right, 0, top), np.where(left < right, height - 1, bottom)
    edges = [np.minimum.reduceat(edge, first) for edge in (left, top)]
    edges += [np.maximum.reduceat(edge, first) + 1 for edge in (right, bottom)]
    return np.stack(edges, axis=1).astype(np.float32)


def _compress_runs(runs: list[int], height: int, width: int) -> str:
    """Compresses run lengths to a COCO RLE string."""
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)
    return packed["counts"].decode("ascii")


# Run-length encoding to masks


def decode_mask(rle: str, height: int, width: int) -> np.ndarray:
    """Decodes a compressed COCO RLE string to a mask bool [height, width].

    Unlike pycocotools, which returns uninitialized memory for runs that are too short, this
    checks that the runs fit.

    Raises:
      RecordError: the string is not an RLE, or its runs do not cover height * width pixels.
    """
    return decode_run_lengths(parse_run_lengths(rle), height, width, "mask")


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
