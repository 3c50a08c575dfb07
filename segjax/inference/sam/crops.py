"""Point grids and overlapping image crops of automatic mask generation (SAM, appendix B).

The geometry is that of segment-anything. Layer 0 is the whole image. Layer i has 2^i x 2^i crops.
"""

import dataclasses

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
