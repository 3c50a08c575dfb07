"""Random outlines of synthetic objects, and filling them with antialiased edges."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("ellipse", "rectangle", "polygon", "star", "blob")
# Shapes of captioned scenes alone: corners (x, y) of radius 1
_ARM = 0.36
_OUTLINES = {
    "triangle": [(0, -1), (0.87, 0.5), (-0.87, 0.5)],
    "cross": [
        *((-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)),
        *((_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)),
    ],
    "arrow": [
        *((-1, -0.25), (0.1, -0.25), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.25)),
        (-1, 0.25),
    ],
}
_OVERSAMPLING = 4


@dataclasses.dataclass(frozen=True)
class FilledShape:
    """A filled outline on a canvas of S x S pixels.

    Attributes:
      alpha: float32 [S, S], covered share of each pixel, 0..1.
      mask: bool [S, S], pixels of which at least half is covered.
      box: x1 y1 x2 y2 around every pixel that is partly covered.
    """

    alpha: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int]


def sample_outline(rng: np.random.Generator, kind: str, radius: float) -> np.ndarray:
    """Samples the outline of a randomly rotated shape around the origin.

    Args:
      rng: source of randomness.
      kind: one of `SHAPES`, or "triangle", "cross" or "arrow".
      radius: approximate reach of the shape in pixels.

    Returns:
      Vertices float64 [V, 2], (x, y).

    Raises:
      ValueError: unknown kind.
    """
    if kind == "rectangle":
        half = np.array([1.0, rng.uniform(0.45, 1.0)])
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half / np.hypot(*half)
    elif kind == "ellipse":
        points = _around(np.ones(40)) * np.array([1.0, rng.uniform(0.5, 1.0)])
    elif kind == "polygon":
        points = _around(rng.uniform(0.75, 1.0, rng.integers(3, 8)))
    elif kind == "star":
        tips = rng.integers(4, 8)
        points = _around(np.tile([1.0, rng.uniform(0.45, 0.65)], tips))
    elif kind == "blob":
        orders = np.arange(2, 6)
        heights, phases = rng.normal(0, 0.16 / orders), rng.uniform(0, 2 * np.pi, 4)
        angles = np.arange(48) * (2 * np.pi / 48)
        waves = heights @ np.cos(orders[:, None] * angles + phases[:, None])
        points = _around(0.85 * np.clip(1 + waves, 0.4, 1.3))
    elif kind in _OUTLINES:
        points = np.array(_OUTLINES[kind]) * np.array([1.0, rng.uniform(0.8, 1.0)])
    else:
        raise ValueError(f"unknown shape {kind!r}; there are {', '.join((*SHAPES, *_OUTLINES))}")
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return radius * points @ turn


def fill_polygon(vertices: np.ndarray, size: int) -> FilledShape:
    """Fills a polygon on a canvas of `size` x `size` pixels.

    Args:
      vertices: [V, 2], (x, y) in continuous pixel coordinates.
      size: side of the canvas.
    """
    # Python numbers, because NumPy's overhead on two values exceeds the cost of drawing.
    x1, y1 = (min(max(math.floor(low) - 1, 0), size - 1) for low in vertices.min(0).tolist())
    x2, y2 = (min(math.ceil(high) + 1, size) for high in vertices.max(0).tolist())
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    fine = Image.new("L", ((x2 - x1) * _OVERSAMPLING, (y2 - y1) * _OVERSAMPLING))
    # Pillow's vertices are pixel centers, hence the half pixel of the fine grid.
    outline = (vertices - (x1, y1)) * _OVERSAMPLING - 0.5
    ImageDraw.Draw(fine).polygon(outline.ravel().tolist(), fill=255)
    coverage = np.asarray(fine.reduce(_OVERSAMPLING))
    alpha = np.zeros((size, size), np.float32)
    mask = np.zeros((size, size), bool)
    alpha[y1:y2, x1:x2] = coverage * np.float32(1 / 255)
    mask[y1:y2, x1:x2] = coverage >= 128
    return FilledShape(alpha, mask, (x1, y1, x2, y2))


def _around(radii: np.ndarray) -> np.ndarray:
    """Returns points [V, 2] at the given radii [V], evenly spaced in angle."""
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
