"""Where a picture lies on the canvas, and carrying pixels, masks, boxes and points there and back."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image

from segjax.images.transforms import compute_fitted_size

RESIZES = ("pillow", "torchvision")


@dataclasses.dataclass(frozen=True)
class Placement:
    """How a picture comes onto the canvas: turned and mirrored, resized to ``resized``, cut to a window of ``size`` at
    ``offset``, and laid in the canvas's top left corner. All (height, width) or (y, x), in pixels.

    ``resize``: "pillow", antialiased bilinear; "torchvision", bilinear between the four nearest pixels however much the
    picture shrinks, as torchvision's detectors do it.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: tuple[int, int]
    turns: int = 0
    flip_x: bool = False
    flip_y: bool = False
    resize: str = "pillow"

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right are exchanged (a turned picture is not mirrored)."""
        return self.flip_x != self.flip_y

    @property
    def rotated(self) -> tuple[int, int]:
        """(height, width) of the picture once it is turned."""
        return self.source if self.turns % 2 == 0 else self.source[::-1]

    @property
    def window(self) -> tuple[float, float, float, float]:
        """x1 y1 x2 y2 of what is kept, in pixels of the picture once it is turned and mirrored."""
        scale = np.array(self.rotated) / self.resized
        (top, left), (bottom, right) = self.offset * scale, np.add(self.offset, self.size) * scale
        return left, top, min(right, self.rotated[1]), min(bottom, self.rotated[0])

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] or [H, W] -> uint8 [h, w, 3] or [h, w]: the content of the canvas, bilinear."""
        if pixels.shape[:2] != self.source:
            raise ValueError(
                f"placement was drawn for {self.source} pixels, got {pixels.shape[:2]}"
            )
        pixels = self.orient(pixels)
        if self.resized == pixels.shape[:2]:
            y, x = self.offset
            return pixels[y : y + self.size[0], x : x + self.size[1]]
        # Pillow's filter is wider than a pixel only where the picture shrinks.
        if self.resize == "torchvision" and (
            self.resized[0] < self.rotated[0] or self.resized[1] < self.rotated[1]
        ):
            return _plain_bilinear(pixels, self.window, self.size)
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        # Pillow filters across the window's edge, so this is the resized picture cropped, without the cost of it.
        return np.asarray(picture.resize(self.size[::-1], Image.BILINEAR, box=self.window))

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """bool [H, W] -> bool [h, w]: the pixels of which at least half (by the picture's own filter) is inside."""
        if self.resized == self.rotated:
            return self.apply(mask)
        return self.apply(mask.astype(np.uint8) * np.uint8(255)) >= 128

    def transform_points(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] (x, y) of the source in the frame of the content, float64; continuous, so that the middle of
        the first pixel is (0.5, 0.5). Those outside the window lie outside the content."""
        x, y = np.moveaxis(np.asarray(points, np.float64), -1, 0)
        height, width = self.source
        for _ in range(self.turns):  # counter-clockwise: (x, y) -> (y, width - x)
            x, y = y, width - x
            height, width = width, height
        x = width - x if self.flip_x else x
        y = height - y if self.flip_y else y
        x, y = (
            x * self.resized[1] / width - self.offset[1],
            y * self.resized[0] / height - self.offset[0],
        )
        return np.stack([x, y], -1)

    def invert_points(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 2] (x, y) of the content in the frame of the source, float64: the way back of `points`."""
        x, y = np.moveaxis(np.asarray(points, np.float64), -1, 0)
        height, width = self.rotated
        x, y = (
            (x + self.offset[1]) * width / self.resized[1],
            (y + self.offset[0]) * height / self.resized[0],
        )
        x = width - x if self.flip_x else x
        y = height - y if self.flip_y else y
        for _ in range(self.turns):
            x, y = height - y, x
            height, width = width, height
        return np.stack([x, y], -1)

    def transform_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] (x1 y1 x2 y2) of the source in the frame of the content, float64, not clipped."""
        return _boxes_through(self.transform_points, boxes)

    def invert_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [..., 4] of the content in the frame of the source, float64, not clipped."""
        return _boxes_through(self.invert_points, boxes)

    def overlaps_window(self, boxes: np.ndarray) -> np.ndarray:
        """bool [G]: whether boxes float [G, 4] of the source reach into the window (masks of the others are empty)."""
        x1, y1, x2, y2 = np.moveaxis(self.transform_boxes(np.asarray(boxes).reshape(-1, 4)), -1, 0)
        return (x2 > 0) & (x1 < self.size[1]) & (y2 > 0) & (y1 < self.size[0])

    def orient(self, pixels: np.ndarray) -> np.ndarray:
        """[H, W, ...] turned and mirrored, not resized; a view."""
        pixels = np.rot90(pixels, self.turns) if self.turns else pixels
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]


def place_whole_image(
    hw: tuple[int, int], resized: tuple[int, int] | None = None, resize: str = "pillow"
) -> Placement:
    """All of a picture of ``hw`` pixels, as it is or ``resized``."""
    resized = tuple(hw) if resized is None else tuple(resized)
    return Placement(tuple(hw), resized, (0, 0), resized, resize=resize)


def place_for_detection(
    hw: tuple[int, int],
    canvas: tuple[int, int],
    short_side: int = 0,
    long_side: int = 0,
    resize: str = "pillow",
) -> Placement:
    """How a detector sees a picture of ``hw`` pixels: the whole of it, resized as `compute_short_side_size` says.

    Where that is larger than the canvas (H, W), the picture becomes as large as the canvas can hold.
    """
    fitted = compute_fitted_size(hw, canvas)
    resized = compute_short_side_size(hw, short_side, long_side, resize) if short_side else fitted
    return place_whole_image(
        hw, resized if resized[0] <= canvas[0] and resized[1] <= canvas[1] else fitted, resize
    )


def compute_short_side_size(
    hw: tuple[int, int], short_side: int, long_side: int = 0, resize: str = "pillow"
) -> tuple[int, int]:
    """(h, w) at which the shorter side has ``short_side`` pixels, or fewer where the longer would exceed ``long_side``.

    detectron2 ("pillow") rounds the sides; torchvision rounds them down. A ``long_side`` of 0 is no limit.
    """
    if resize not in RESIZES:
        raise ValueError(f"resize {resize!r} is unknown; choose one of {', '.join(RESIZES)}")
    long_side = long_side or math.inf
    if resize == "torchvision":
        scale = min(short_side / min(hw), long_side / max(hw))
        return max(1, int(hw[0] * scale)), max(1, int(hw[1] * scale))
    # In two steps, as there: a product of both factors is rounded otherwise where it ends in a half.
    sides = [short_side if side == min(hw) else side * (short_side / min(hw)) for side in hw]
    shrunk = min(1, long_side / max(sides))
    return max(1, int(sides[0] * shrunk + 0.5)), max(1, int(sides[1] * shrunk + 0.5))


def _boxes_through(move, boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes)
    corners = move(boxes.reshape(*boxes.shape[:-1], 2, 2))
    return np.concatenate([corners.min(-2), corners.max(-2)], -1)


def _plain_bilinear(
    pixels: np.ndarray, window: tuple[float, ...], size: tuple[int, int]
) -> np.ndarray:
    """The window of uint8 pixels [H, W, ...] in ``size`` pixels, each a mean of its four neighbours, rounded."""
    left, top, right, bottom = window
    out = pixels.astype(np.float32)
    for axis, (start, end) in enumerate(((top, bottom), (left, right))):
        centres = start + (np.arange(size[axis]) + 0.5) * (end - start) / size[axis] - 0.5
        centres = np.clip(centres, 0, pixels.shape[axis] - 1)
        low = centres.astype(np.int64)
        high = np.minimum(low + 1, pixels.shape[axis] - 1)
        share = (
            (centres - low)
            .astype(np.float32)
            .reshape([-1 if k == axis else 1 for k in range(out.ndim)])
        )
        below = out.take(low, axis)
        out = below + share * (out.take(high, axis) - below)
    return (out + 0.5).astype(np.uint8)
