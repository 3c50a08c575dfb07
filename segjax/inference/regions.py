"""Small holes and islands of masks, removed on the host (SAM, appendix B)."""

import numpy as np


def without_small_regions(mask: np.ndarray, smallest: int) -> tuple[np.ndarray, bool]:
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
