"""Where segment-everything looks: a grid of points, over the whole picture and over overlapping crops of it.

Geometry of segment-anything's generator (SAM, appendix B): layer 0 is the picture, layer i has 2^i crops a side.
"""

import dataclasses

import numpy as np

EDGE_TOLERANCE = 20.0  # px within which a box touches an edge


@dataclasses.dataclass(frozen=True)
class Crop:
    """Part of a picture. box: x1, y1, x2, y2 in its pixels, whole numbers; layer: 0 is the whole picture."""

    box: tuple[int, int, int, int]
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        x1, y1, x2, y2 = self.box
        return y2 - y1, x2 - x1

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The crop's pixels of an image [H, W, ...]."""
        x1, y1, x2, y2 = self.box
        return image[y1:y2, x1:x2]


def point_grid(per_side: int) -> np.ndarray:
    """Centres of per_side x per_side cells of the unit square: float64 [per_side ** 2, 2], (x, y), row by row."""
    centres = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def crops_of(hw: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The picture of size `hw` and, for each further layer, its crops, column by column.

    Args:
      layers: how many beyond the picture itself; layer i has 4 ** i crops.
      overlap_ratio: of neighbouring crops of layer 1, as a fraction of the picture's shorter side; halved with every
        layer.
    """
    height, width = hw
    crops = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        a_side = 2**layer
        overlap = int(overlap_ratio * min(hw) * (2 / a_side))
        crop_w, crop_h = (-(-(overlap * (a_side - 1) + side) // a_side) for side in (width, height))
        for column in range(a_side):
            for row in range(a_side):
                x, y = (crop_w - overlap) * column, (crop_h - overlap) * row
                crop = Crop((x, y, min(x + crop_w, width), min(y + crop_h, height)), layer)
                if min(crop.size) > 0:  # a picture of few pixels has not so many crops
                    crops.append(crop)
    return crops


def cut_off(boxes: np.ndarray, crop: Crop, hw: tuple[int, int]) -> np.ndarray:
    """Which boxes touch an edge of the crop that is no edge of the picture: there is more of them outside.

    Args:
      boxes: [N, 4], in pixels of the picture. hw: its size.

    Returns:
      bool [N].
    """
    near = lambda edges: np.abs(boxes - np.asarray(edges, np.float32)) <= EDGE_TOLERANCE
    return np.any(near(crop.box) & ~near((0, 0, hw[1], hw[0])), axis=1)
