"""Random placement of a picture and its masks on the canvas (scale jitter, crop, flips, turns), and colour jitter.

One `Placement` is drawn per example and applied to the picture and to each mask, so that they stay together.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from segjax.data.transforms import fitted_size


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is drawn at random for a training example; the default draws nothing.

    Attributes:
      scale: (low, high) of large-scale jitter: the longest side becomes s * canvas with s uniform in the range. A
        larger picture is cropped at random, a smaller one padded. (0.1, 2.0) is that of Simple Copy-Paste
        (Ghiasi et al. 2021, section 3). None: the longest side fills the canvas.
      flip: mirror left-right half the time.
      vertical_flip: mirror top-bottom half the time (microscopy, scenes without an up).
      quarter_turns: turn by 0, 90, 180 or 270 degrees.
      brightness: a shift uniform in +-brightness, as a fraction of full intensity.
      contrast: intensities are multiplied, around mid-grey, by a factor uniform in 1 +- contrast.
    """

    scale: tuple[float, float] | None = None
    flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self):
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"augmentation scale is (low, high) with 0 < low <= high, got {tuple(self.scale)}")
        if not 0 <= self.brightness <= 1 or not 0 <= self.contrast < 1:
            raise ValueError(
                "augmentation brightness lies in 0..1 and contrast in 0..1 (1 excluded), "
                f"got {self.brightness} and {self.contrast}"
            )

    @classmethod
    def from_dict(cls, options: dict) -> Augmentation:
        """`Augmentation` of keyword options; an unknown one is named together with the known ones."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"unknown augmentation {', '.join(unknown)}; there are {', '.join(known)}")
        return cls(**options)


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a picture comes onto the canvas: turned and mirrored, resized to ``resized``, cut to a window of ``size`` at
    ``offset``, and laid in the canvas's top left corner. All (height, width) or (y, x), in pixels."""

    source: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]
    turns: int = 0
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] or [H, W] -> uint8 [h, w, 3] or [h, w]: the content of the canvas, antialiased bilinear."""
        if pixels.shape[:2] != self.source:
            raise ValueError(f"placement was drawn for {self.source} pixels, got {pixels.shape[:2]}")
        pixels = self._oriented(pixels)
        if self.resized == pixels.shape[:2]:
            y, x = self.offset
            return pixels[y : y + self.size[0], x : x + self.size[1]]
        scale = np.array(pixels.shape[:2]) / self.resized
        (top, left), (bottom, right) = self.offset * scale, np.add(self.offset, self.size) * scale
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        # Pillow filters across the window's edge, so this is the resized picture cropped, without the cost of it.
        box = (left, top, min(right, picture.width), min(bottom, picture.height))
        return np.asarray(picture.resize(self.size[::-1], Image.BILINEAR, box=box))

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """bool [H, W] -> bool [h, w]: the pixels of which at least half (by the picture's own filter) is inside."""
        if self.resized == self._oriented(mask).shape:
            return self.apply(mask)
        return self.apply(mask.astype(np.uint8) * np.uint8(255)) >= 128

    def hits(self, boxes: np.ndarray) -> np.ndarray:
        """bool [G]: whether boxes float [G, 4] of the source reach into the window (masks of the others are empty)."""
        x1, y1, x2, y2 = np.moveaxis(np.asarray(boxes, np.float64).reshape(-1, 4), -1, 0)
        height, width = self.source
        for _ in range(self.turns):  # counter-clockwise: (x, y) -> (y, width - x)
            x1, y1, x2, y2 = y1, width - x2, y2, width - x1
            height, width = width, height
        if self.flip_x:
            x1, x2 = width - x2, width - x1
        if self.flip_y:
            y1, y2 = height - y2, height - y1
        scale_y, scale_x = self.resized[0] / height, self.resized[1] / width
        (top, left), (bottom, right) = self.offset, np.add(self.offset, self.size)
        return (x2 * scale_x > left) & (x1 * scale_x < right) & (y2 * scale_y > top) & (y1 * scale_y < bottom)

    def _oriented(self, pixels: np.ndarray) -> np.ndarray:
        pixels = np.rot90(pixels, self.turns) if self.turns else pixels
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def draw_placement(hw: tuple[int, int], canvas: int, augmentation: Augmentation, rng: np.random.Generator) -> Placement:
    """A random `Placement` of a picture of ``hw`` pixels on a ``canvas`` x ``canvas`` square."""
    turns = int(rng.integers(4)) if augmentation.quarter_turns else 0
    flip_x = bool(augmentation.flip and rng.random() < 0.5)
    flip_y = bool(augmentation.vertical_flip and rng.random() < 0.5)
    turned = tuple(hw) if turns % 2 == 0 else (hw[1], hw[0])
    if augmentation.scale is None:
        resized = fitted_size(turned, canvas)
    else:
        resized = fitted_size(turned, max(1, round(rng.uniform(*augmentation.scale) * canvas)))
    size = tuple(min(side, canvas) for side in resized)
    offset = tuple(
        int(rng.integers(side - kept + 1)) if side > kept else 0 for side, kept in zip(resized, size, strict=True)
    )
    return Placement(tuple(hw), resized, offset, size, turns, flip_x, flip_y)


def jitter_colours(image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """uint8 [...] -> uint8 [...] with a random contrast (around mid-grey) and brightness."""
    if not augmentation.brightness and not augmentation.contrast:
        return image
    factor = 1 + rng.uniform(-1, 1) * augmentation.contrast
    shift = 255 * rng.uniform(-1, 1) * augmentation.brightness
    table = (np.arange(256) - 127.5) * factor + 127.5 + shift
    return np.clip(table + 0.5, 0, 255).astype(np.uint8)[image]
