"""Random augmentation: large-scale jitter (LSJ), crops, flips, rotation and color jitter.

One `Placement` is drawn per example. The image and everything in it share it, so that masks, boxes
and keypoints stay aligned.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from segjax.images.placement import Placement, place_for_detection
from segjax.images.resizing import RESIZES
from segjax.images.transforms import compute_fitted_size


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Settings of the random augmentation. The default changes nothing.

    Attributes:
      scale: (low, high) of large-scale jitter (LSJ). The longest side becomes s * canvas, with s
        uniform in this range. A larger image is cropped at random, a smaller one is padded.
        Simple Copy-Paste (Ghiasi et al. 2021, section 3) uses (0.1, 2.0). None: the longest side
        fills the canvas, unless there are `short_sides`.
      short_sides: the shorter side becomes one of these numbers of pixels, or less if the longer
        one would exceed `long_side` or the canvas. detectron2 trains with 640, 672, ..., 800.
      long_side: limit of the longer side in pixels. 0 is no limit. detectron2's is 1333.
      resize: "pillow" or "torchvision", see `Placement` and `compute_short_side_size`.
      flip: mirror left and right with probability 0.5.
      vertical_flip: mirror top and bottom with probability 0.5. For images without an up
        direction, such as microscopy.
      quarter_turns: rotate by 0, 90, 180 or 270 degrees.
      brightness: shift, uniform in +-brightness, as a fraction of full intensity.
      contrast: factor around mid-gray, uniform in 1 +- contrast.

    Raises:
      ValueError: a setting is out of range, or `scale` and `short_sides` are both given.
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
                "augmentation takes scale or short_sides, not both: each sets the size of an image"
            )
        sides = any(side < 1 for side in self.short_sides) or self.long_side < 0
        if sides or self.resize not in RESIZES:
            raise ValueError(
                f"augmentation short_sides {tuple(self.short_sides)} and long_side "
                f"{self.long_side} are pixels, and resize is one of {', '.join(RESIZES)}, got "
                f"{self.resize!r}"
            )
        if not 0 <= self.brightness <= 1 or not 0 <= self.contrast < 1:
            raise ValueError(
                "augmentation brightness lies in 0..1 and contrast in 0..1 (1 excluded), "
                f"got {self.brightness} and {self.contrast}"
            )

    @classmethod
    def from_dict(cls, options: dict) -> Augmentation:
        """Makes an `Augmentation` from options. Raises ValueError for unknown ones."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(
                f"unknown augmentation {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return cls(**options)


def list_placements(
    hw: tuple[int, int], canvas: int, augmentation: Augmentation
) -> list[Placement]:
    """Lists all placements that `draw_placement` may draw.

    Args:
      hw: (height, width) of the image in pixels.
      canvas: side of the canvas in pixels.
      augmentation: flips and quarter turns alone.

    Raises:
      ValueError: an augmentation of which there are endlessly many.
    """
    endless = ("scale", "short_sides", "brightness", "contrast")
    if used := [name for name in endless if getattr(augmentation, name)]:
        raise ValueError(
            f"augmentation {', '.join(used)} draws a new image each time; only flip, vertical_flip "
            "and quarter_turns have a few variants that can be listed"
        )
    placements = []
    for turns in range(4 if augmentation.quarter_turns else 1):
        turned = tuple(hw) if turns % 2 == 0 else (hw[1], hw[0])
        resized = place_for_detection(turned, (canvas,) * 2, 0, 0, augmentation.resize).resized
        for flip_x in (False, True)[: 1 + augmentation.flip]:
            for flip_y in (False, True)[: 1 + augmentation.vertical_flip]:
                placements.append(
                    Placement(
                        *(tuple(hw), resized, (0, 0), resized),
                        *(turns, flip_x, flip_y, augmentation.resize),
                    )
                )
    return placements


def draw_placement(
    hw: tuple[int, int],
    canvas: int | tuple[int, int],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Placement:
    """Draws a random `Placement` of an image.

    Args:
      hw: (height, width) of the image in pixels.
      canvas: (height, width) of the canvas in pixels, or the side of a square.
      augmentation: settings.
      rng: source of randomness.
    """
    canvas = (canvas, canvas) if isinstance(canvas, int) else tuple(canvas)
    # Orientation
    turns = int(rng.integers(4)) if augmentation.quarter_turns else 0
    flip_x = bool(augmentation.flip and rng.random() < 0.5)
    flip_y = bool(augmentation.vertical_flip and rng.random() < 0.5)
    turned = tuple(hw) if turns % 2 == 0 else (hw[1], hw[0])
    # Size
    if augmentation.scale is not None:
        jitter = rng.uniform(*augmentation.scale)
        # Only the result is rounded, as in detectron2.
        resized = compute_fitted_size(turned, tuple(jitter * side for side in canvas))
    else:
        short_side = int(rng.choice(augmentation.short_sides)) if augmentation.short_sides else 0
        limits = (short_side, augmentation.long_side, augmentation.resize)
        resized = place_for_detection(turned, canvas, *limits).resized
    # Crop
    size = tuple(min(side, room) for side, room in zip(resized, canvas, strict=True))
    offset = tuple(
        int(rng.integers(side - window + 1)) if side > window else 0
        for side, window in zip(resized, size, strict=True)
    )
    return Placement(tuple(hw), resized, offset, size, turns, flip_x, flip_y, augmentation.resize)


def jitter_colors(
    image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Changes contrast (around mid-gray) and brightness at random.

    Args:
      image: uint8 of any shape.
      augmentation: settings.
      rng: source of randomness, not used if both settings are 0.

    Returns:
      uint8 of the same shape.
    """
    if not augmentation.brightness and not augmentation.contrast:
        return image
    factor = 1 + rng.uniform(-1, 1) * augmentation.contrast
    shift = 255 * rng.uniform(-1, 1) * augmentation.brightness
    table = (np.arange(256) - 127.5) * factor + 127.5 + shift
    return np.clip(table + 0.5, 0, 255).astype(np.uint8)[image]
