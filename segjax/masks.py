"""Binary masks on the host: run-length encoding, boxes of masks, removal of small regions.

A mask travels as its run-length encoding (RLE) in COCO's form: pixels are read down the columns,
and runs of pixels outside and inside the mask alternate, starting outside. `encode_mask` and
`decode_mask` convert between masks and RLE strings. The steps in between, and COCO's mapping of
size and counts, are in `segjax.run_lengths`, and label maps in `segjax.regions`. All of their names
can be imported from here.

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

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from segjax.regions import EncodedRegion, encode_label_map
from segjax.run_lengths import (
    MAX_PIXELS,
    RecordError,
    check_mask_size,
    check_run_lengths,
    compress_run_lengths,
    decode_rle,
    decode_run_lengths,
    find_broken_rles,
    parse_rle,
    parse_run_lengths,
)

__all__ = [
    "MAX_PIXELS",
    "EncodedRegion",
    "RecordError",
    "as_mask_input",
    "check_mask_size",
    "check_run_lengths",
    "compress_run_lengths",
    "compute_mask_box",
    "decode_mask",
    "decode_mask_crop",
    "decode_rle",
    "decode_run_lengths",
    "encode_label_map",
    "encode_mask",
    "encode_mask_crop",
    "find_broken_rles",
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
    return compress_run_lengths(runs.tolist(), height, width)


# Run-length encoding to masks


def decode_mask(rle: str, height: int, width: int) -> np.ndarray:
    """Decodes a compressed COCO RLE string to a mask bool [height, width].

    Unlike pycocotools, which returns uninitialized memory for runs that are too short, this
    checks that the runs fit.

    Raises:
      RecordError: the string is not an RLE, or its runs do not cover height * width pixels.
    """
    return decode_run_lengths(parse_run_lengths(rle), height, width, "mask")


def decode_mask_crop(rle: str, height: int, width: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Decodes the smallest crop that holds all inside pixels, the inverse of `encode_mask_crop`.

    The work grows with the columns of the crop, which matters for many small masks on a large
    image.

    Returns:
      A pair of bool [h, w] and its (top, left) in pixels of the full mask. An empty mask has the
      crop [0, 0] at (0, 0).

    Raises:
      RecordError: see `decode_mask`.
    """
    runs = check_run_lengths(parse_run_lengths(rle), height, width, "mask")
    ends = np.cumsum(runs)
    inside = np.flatnonzero(runs[1::2]) * 2 + 1
    if inside.size == 0:
        return np.zeros((0, 0), bool), (0, 0)
    left, right = ends[inside[0] - 1] // height, (ends[inside[-1]] - 1) // height
    # Runs of these columns alone
    ends = np.clip(ends, left * height, (right + 1) * height) - left * height
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, np.diff(ends, prepend=0))
    crop = flat.reshape(right - left + 1, height).T
    rows = np.flatnonzero(crop.any(1))
    return np.ascontiguousarray(crop[rows[0] : rows[-1] + 1]), (int(rows[0]), int(left))


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


def compute_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the IoU of two masks bool [H, W], 0 if both are empty."""
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 0.0


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
    smallest = min(smallest, mask.size + 1)  # NumPy compares with 64 bits
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


# Masks to prompts


def as_mask_input(mask: np.ndarray, model: Any) -> np.ndarray:
    """Converts a mask of an image to the logits that a SAM takes as `mask_input`.

    The logit of a cell is log(p / (1 - p)), where p is the share of the cell that the mask covers,
    kept within -10 and 10. Cells beside the image are outside.

    Example:
      masks, iou, low_res = predictor.predict(mask_input=as_mask_input(mask, model))

    Args:
      mask: bool or {0, 1} or {0, 255} [H, W], of the image's size.
      model: a SAM, of whose attributes `canvas` and `mask_side` are read.

    Returns:
      float32 [1, mask_side, mask_side].

    Raises:
      ValueError: no such mask, or one of logits.
    """
    mask = np.asarray(mask)
    values = set(np.unique(mask).tolist()) if mask.dtype.kind in "biuf" else {None}
    if mask.ndim != 2 or not mask.size or not (values <= {0, 1} or values <= {0, 255}):
        raise ValueError(
            f"mask is {mask.dtype} of shape {mask.shape}; expected True and False, or 0 and 1, of "
            "shape [height, width]"
        )
    # The image is resized until its longer side fills the canvas, in whole pixels
    scale = model.canvas / max(mask.shape)
    rows, columns = (
        _cover_cells(length, max(1, int(length * scale + 0.5)), model) for length in mask.shape
    )
    share = rows @ (mask > 0).astype(np.float32) @ columns.T
    with np.errstate(divide="ignore"):
        logits = np.log(share) - np.log1p(-np.minimum(share, 1))
    return np.clip(logits, -10, 10).astype(np.float32)[None]


def _cover_cells(length: int, resized: int, model: Any) -> np.ndarray:
    """Returns the share of each cell that each pixel of the image covers, [cells, length]."""
    edges = np.arange(length + 1) * (resized / length) * (model.mask_side / model.canvas)
    first = np.arange(model.mask_side)[:, None]
    overlap = np.minimum(edges[1:], first + 1) - np.maximum(edges[:-1], first)
    return np.maximum(overlap, 0).astype(np.float32)
