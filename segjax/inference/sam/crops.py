"""Point grids and overlapping image crops of automatic mask generation (SAM, appendix B).

The geometry is that of segment-anything. Layer 0 is the whole image. Layer i has 2^i x 2^i crops.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

EDGE_TOLERANCE = 20.0  # px. A box this close to an edge touches it.


@dataclasses.dataclass(frozen=True)
class Crop:
    """Crop of an image.

    Attributes:
      box: x1 y1 x2 y2 in pixels of the image, integers.
      layer: Layer of the crop. 0 is the whole image.
    """

    box: tuple[int, int, int, int]
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """Returns (height, width) in pixels."""
        x1, y1, x2, y2 = self.box
        return y2 - y1, x2 - x1

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Returns the crop's pixels of an image [H, W, ...]."""
        x1, y1, x2, y2 = self.box
        return image[y1:y2, x1:x2]


def make_point_grid(per_side: int) -> np.ndarray:
    """Returns the centers of per_side x per_side cells of the unit square, row by row.

    Args:
      per_side: Number of points along each side.

    Returns:
      float64 [per_side ** 2, 2], (x, y).
    """
    centers = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(centers, centers)
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def make_point_grids(
    points_per_side: int | None,
    point_grids: Sequence[np.ndarray] | None,
    layers: int,
    downscale_factor: int,
) -> list[np.ndarray]:
    """Returns one point grid per crop layer, from the number of points or from given grids.

    Args:
      points_per_side: Points along each side for the whole image. None with `point_grids`.
      point_grids: Grids [N, 2], (x, y) in the unit square. None with `points_per_side`.
      layers: Number of crop layers besides the whole image.
      downscale_factor: Layer i has points_per_side / downscale_factor ** i points per side.

    Returns:
      float64 [N, 2] for each layer.

    Raises:
      ValueError: Neither or both arguments, too few grids, or points outside the unit square.
    """
    if (points_per_side is None) == (point_grids is None):
        raise ValueError(
            f"points_per_side is {points_per_side} and point_grids is "
            f"{'' if point_grids is None else 'not '}None; give one of them (points_per_side=None "
            "with point_grids)"
        )
    if point_grids is None:
        if points_per_side < 1:
            raise ValueError(f"points_per_side is {points_per_side}; expected at least 1")
        sides = [int(points_per_side / downscale_factor**i) for i in range(layers + 1)]
        point_grids = [make_point_grid(max(side, 1)) for side in sides]
    if len(point_grids) <= layers:
        raise ValueError(
            f"{len(point_grids)} point_grids for crop_n_layers={layers}; expected one per layer, "
            f"{layers + 1} with that of the whole image"
        )
    grids = [np.asarray(grid, np.float64) for grid in point_grids]
    for grid in grids:
        shaped = grid.ndim == 2 and grid.shape[1] == 2 and grid.size > 0
        if not shaped or not (grid.min() >= 0 and grid.max() <= 1):
            span = f", values {grid.min():g} to {grid.max():g}" if grid.size else ""
            raise ValueError(
                f"a point grid is {grid.shape}{span}; expected [N, 2], (x, y) between 0 and 1"
            )
    return grids


def make_crops(hw: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """Returns the whole image and the crops of every further layer, column by column.

    Args:
      hw: (height, width) of the image, in pixels.
      layers: Number of layers besides the whole image. Layer i has 4 ** i crops.
      overlap_ratio: Overlap of neighboring crops of layer 1, as a fraction of the image's shorter
        side. It halves with every layer.
    """
    height, width = hw
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        per_side = 2**layer
        # Sides are rounded up, so the last crop may be cut by the image's edge.
        overlap = int(overlap_ratio * min(hw) * (2 / per_side))
        crop_w, crop_h = (
            -(-(overlap * (per_side - 1) + side) // per_side) for side in (width, height)
        )
        for column in range(per_side):
            for row in range(per_side):
                x, y = (crop_w - overlap) * column, (crop_h - overlap) * row
                crop = Crop((x, y, min(x + crop_w, width), min(y + crop_h, height)), layer)
                if min(crop.size) > 0:  # a tiny image has fewer crops
                    crops.append(crop)
    return crops


def is_cut_off(boxes: np.ndarray, crop: Crop, hw: tuple[int, int]) -> np.ndarray:
    """Tests which boxes touch an edge of the crop that is not an edge of the image.

    The objects in these boxes continue outside the crop, so their masks are incomplete.

    Args:
      boxes: [N, 4], x1 y1 x2 y2 in pixels of the image.
      crop: The crop in which the boxes were predicted.
      hw: (height, width) of the image.

    Returns:
      bool [N].
    """
    near = lambda edges: np.abs(boxes - np.asarray(edges, np.float32)) <= EDGE_TOLERANCE
    return np.any(near(crop.box) & ~near((0, 0, hw[1], hw[0])), axis=1)
