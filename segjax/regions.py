"""Regions of label maps: the mask of every value, encoded in one pass over the map."""

from typing import NamedTuple

import numpy as np

from segjax.run_lengths import check_mask_size, compress_run_lengths


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
        rle = compress_run_lengths(counts + [rest] * (rest > 0), height, width)
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
