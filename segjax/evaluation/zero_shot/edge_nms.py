"""Thinning of soft edge maps to their ridges (non-maximum suppression across edges)."""

import numpy as np

_BORDER = 5  # pixels at the rim of an image whose edges are faded out
_SLACK = 1.01  # a pixel this much stronger than its neighbors across the edge stays


def suppress_edges(edges: np.ndarray) -> np.ndarray:
    """Keeps the ridges of a soft edge map, as the structured edge detector does (arXiv 1406.5549).

    The map is smoothed by a triangle filter. A pixel whose neighbors across the edge, one pixel
    away, are stronger becomes 0. The orientation of the edge comes from second derivatives of a
    map that is smoothed more. Edges within five pixels of the rim fade out.

    Args:
      edges: float [H, W], 0..1.

    Returns:
      float64 [H, W], 0..1.
    """
    from scipy.ndimage import map_coordinates

    smooth = _filter_triangle(np.asarray(edges, np.float64), 1)
    coarse = _filter_triangle(smooth, 4)
    # Orientation across the edge
    dy, dx = np.gradient(coarse)
    dyy, dxx, dxy = np.gradient(dy)[0], np.gradient(dx)[1], np.gradient(dx)[0]
    angle = np.mod(np.arctan(dyy * np.sign(-dxy) / (dxx + 1e-5)), np.pi)
    # Compare with both neighbors
    height, width = smooth.shape
    y, x = np.mgrid[:height, :width]
    out = smooth.copy()
    for side in (-1, 1):
        rows = np.clip(y + side * np.sin(angle), 0, height - 1.001)
        columns = np.clip(x + side * np.cos(angle), 0, width - 1.001)
        out[smooth * _SLACK < map_coordinates(smooth, [rows, columns], order=1)] = 0
    return out * _make_ramp(height)[:, None] * _make_ramp(width)


def _filter_triangle(image: np.ndarray, radius: int) -> np.ndarray:
    """Smooths by a triangle of a radius along both axes. Edges of the image are mirrored."""
    from scipy.ndimage import convolve1d

    rising = np.arange(1, radius + 2, dtype=float)
    kernel = np.concatenate([rising, rising[-2::-1]])
    kernel /= kernel.sum()
    for axis in (0, 1):
        image = convolve1d(image, kernel, axis=axis, mode="reflect")
    return image


def _make_ramp(length: int) -> np.ndarray:
    """Returns factors that grow from 0 at both ends to 1, five pixels inside."""
    index = np.arange(length)
    return np.minimum(1, np.minimum(index, index[::-1]) / _BORDER)
