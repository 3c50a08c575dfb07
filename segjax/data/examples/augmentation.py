"""Random placement of a picture and its masks on the canvas (scale jitter, crop, flips, turns), and colour jitter.

One `Placement` is drawn per example and applied to the picture and to all that lies in it, so that they stay together.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from segjax.images.placement import RESIZES, Placement, place_for_detection
from segjax.images.transforms import compute_fitted_size


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is drawn at random for a training example; the default draws nothing.

    Attributes:
      scale: (low, high) of large-scale jitter: the longest side becomes s * canvas with s uniform in the range. A
        larger picture is cropped at random, a smaller one padded. (0.1, 2.0) is that of Simple Copy-Paste
        (Ghiasi et al. 2021, section 3). None: the longest side fills the canvas, unless there are short_sides.
      short_sides: the shorter side becomes one of these, or fewer pixels where the longer would exceed long_side or
        the canvas. detectron2 trains with 640, 672, ..., 800 and 1333. long_side: 0 is no limit.
      resize: "pillow" or "torchvision", see `Placement` and `compute_short_side_size`.
      flip: mirror left-right half the time.
      vertical_flip: mirror top-bottom half the time (microscopy, scenes without an up).
      quarter_turns: turn by 0, 90, 180 or 270 degrees.
      brightness: a shift uniform in +-brightness, as a fraction of full intensity.
      contrast: intensities are multiplied, around mid-grey, by a factor uniform in 1 +- contrast.
    """

    scale: tuple[float, float] | None = None
    short_sides: tuple[int, ...] = ()
    long_side: int = 0
    resize: str = "pillow"
    flip: bool = False
    vertical_flip: bool = False
    quarter_turns: bool = False
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self):
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"augmentation scale is (low, high) with 0 < low <= high, got {tuple(self.scale)}"
            )
        if self.scale is not None and self.short_sides:
            raise ValueError(
                "augmentation takes scale or short_sides, not both: each says how large a picture becomes"
            )
        if (
            any(side < 1 for side in self.short_sides)
            or self.long_side < 0
            or self.resize not in RESIZES
        ):
            raise ValueError(
                f"augmentation short_sides {tuple(self.short_sides)} and long_side {self.long_side} are pixels, and "
                f"resize is one of {', '.join(RESIZES)}, got {self.resize!r}"
            )
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
            raise ValueError(
                f"unknown augmentation {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return cls(**options)


def draw_placement(
    hw: tuple[int, int],
    canvas: int | tuple[int, int],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Placement:
    """A random `Placement` of a picture of ``hw`` pixels on a ``canvas`` of (height, width), or a square of a side."""
    canvas = (canvas, canvas) if isinstance(canvas, int) else tuple(canvas)
    turns = int(rng.integers(4)) if augmentation.quarter_turns else 0
    flip_x = bool(augmentation.flip and rng.random() < 0.5)
    flip_y = bool(augmentation.vertical_flip and rng.random() < 0.5)
    turned = tuple(hw) if turns % 2 == 0 else (hw[1], hw[0])
    if augmentation.scale is not None:
        jitter = rng.uniform(*augmentation.scale)
        resized = compute_fitted_size(turned, tuple(max(1, round(jitter * side)) for side in canvas))
    else:
        short_side = int(rng.choice(augmentation.short_sides)) if augmentation.short_sides else 0
        limits = (short_side, augmentation.long_side, augmentation.resize)
        resized = place_for_detection(turned, canvas, *limits).resized
    size = tuple(min(side, room) for side, room in zip(resized, canvas, strict=True))
    offset = tuple(
        int(rng.integers(side - kept + 1)) if side > kept else 0
        for side, kept in zip(resized, size, strict=True)
    )
    return Placement(tuple(hw), resized, offset, size, turns, flip_x, flip_y, augmentation.resize)


def jitter_colors(
    image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """uint8 [...] -> uint8 [...] with a random contrast (around mid-grey) and brightness."""
    if not augmentation.brightness and not augmentation.contrast:
        return image
    factor = 1 + rng.uniform(-1, 1) * augmentation.contrast
    shift = 255 * rng.uniform(-1, 1) * augmentation.brightness
    table = (np.arange(256) - 127.5) * factor + 127.5 + shift
    return np.clip(table + 0.5, 0, 255).astype(np.uint8)[image]
