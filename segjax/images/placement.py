"""Placing an image on the canvas, and mapping pixels, masks, boxes and points there and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from segjax.images.resizing import compute_short_side_size, find_resize, find_window
from segjax.images.transforms import compute_fitted_size


@dataclasses.dataclass(frozen=True)
class Placement:
    """Geometric transform from an image to the content of a canvas.

    The image is rotated, mirrored, resized, and cut to a window. The window lies in the top left
    corner of the canvas. The *source* frame is the stored image. The *content*
    frame is the part of the canvas that the image fills.

    Attributes:
      source: (height, width) of the image in pixels.
      resized: (height, width) of the rotated image after resizing.
      offset: (y, x) of the window in the resized image.
      size: (height, width) of the window, and so of the content.
      turns: quarter turns counter-clockwise, 0 to 3.
      flip_x: mirror left and right after rotating.
      flip_y: mirror top and bottom after rotating.
      resize: a key of `segjax.images.resizing.RESIZES`. "pillow" is antialiased bilinear.
        "torchvision" is bilinear between the four nearest pixels even where the image shrinks, as
        torchvision's detectors do it.
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
        """True if left and right are exchanged. A rotated image is not mirrored."""
        return self.flip_x != self.flip_y

    @property
    def rotated(self) -> tuple[int, int]:
        """(height, width) of the image after rotating, before resizing."""
        return self.source if self.turns % 2 == 0 else self.source[::-1]

    @property
    def window(self) -> tuple[float, float, float, float]:
        """x1 y1 x2 y2 of the window, in pixels of the rotated and mirrored image."""
        return find_window(self.rotated, self.resized, self.offset, self.size)

    # Pixels

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Transforms pixels of the source to the content of the canvas.

        Args:
          pixels: uint8 [H, W, 3] or [H, W].

        Returns:
          uint8 [h, w, 3] or [h, w], bilinear.

        Raises:
          ValueError: the placement was made for an image of another size.
        """
        cut = self._orient_and_cut(pixels)
        if cut is not None:
            return cut
        return find_resize(self.resize).resize(
            self.orient(pixels), self.resized, self.offset, self.size
        )

    def apply_exactly(self, pixels: np.ndarray) -> np.ndarray:
        """Transforms pixels to the values that the networks of the resize's library receive.

        Args:
          pixels: as for `apply`.

        Returns:
          [h, w, 3] or [h, w], of the resize's dtype: float32 with fractions for "torchvision",
          uint8 as from `apply` for "pillow".
        """
        resize, cut = find_resize(self.resize), self._orient_and_cut(pixels)
        if cut is not None:
            return cut.astype(resize.dtype)
        return resize.resize_exactly(self.orient(pixels), self.resized, self.offset, self.size)

    def _orient_and_cut(self, pixels: np.ndarray) -> np.ndarray | None:
        """Returns the content if the image keeps its size, else None."""
        if pixels.shape[:2] != self.source:
            raise ValueError(
                f"placement was drawn for {self.source} pixels, got {pixels.shape[:2]}"
            )
        if self.resized != self.rotated:
            return None
        (y, x), (height, width) = self.offset, self.size
        return self.orient(pixels)[y : y + height, x : x + width]

    def apply_mask(self, mask: np.ndarray) -> np.ndarray:
        """Transforms a mask bool [H, W] to the content, bool [h, w].

        A pixel is inside if at least half of it is, by the same filter as the image's.
        """
        if self.resized == self.rotated:
            return self.apply(mask)
        return self.apply(mask.astype(np.uint8) * np.uint8(255)) >= 128

    def apply_labels(self, labels: np.ndarray) -> np.ndarray:
        """Transforms a map of labels [H, W] to the content, [h, w], by the nearest pixel."""
        rows, columns = (
            ((np.arange(side) + 0.5 + start) * full / resized).astype(int).clip(0, full - 1)
            for side, start, full, resized in zip(
                self.size, self.offset, self.rotated, self.resized, strict=True
            )
        )
        return self.orient(labels)[rows[:, None], columns]

    def orient(self, pixels: np.ndarray) -> np.ndarray:
        """Returns a view of an array [H, W, ...], rotated and mirrored but not resized."""
        pixels = np.rot90(pixels, self.turns) if self.turns else pixels
        return pixels[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    # Points and boxes

    def transform_points(self, points: np.ndarray) -> np.ndarray:
        """Maps points of the source to the frame of the content.

        Args:
          points: [..., 2], (x, y) in pixels. Continuous: the middle of the first pixel is
            (0.5, 0.5).

        Returns:
          float64 [..., 2]. Points outside the window lie outside the content.
        """
        x, y = np.moveaxis(np.asarray(points, np.float64), -1, 0)
        height, width = self.source
        # A quarter turn counter-clockwise maps (x, y) to (y, width - x).
        for _ in range(self.turns):
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
        """Maps points of the content back to the frame of the source.

        Args:
          points: [..., 2], (x, y) in pixels of the content.

        Returns:
          float64 [..., 2].
        """
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
        """Maps boxes [..., 4] (x1 y1 x2 y2) of the source to the content, float64, unclipped."""
        return _map_corners(self.transform_points, boxes)

    def invert_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Maps boxes [..., 4] of the content back to the source, float64, unclipped."""
        return _map_corners(self.invert_points, boxes)

    def overlaps_window(self, boxes: np.ndarray) -> np.ndarray:
        """Finds the boxes that reach into the window. The masks of all others come out empty.

        Args:
          boxes: float [G, 4], x1 y1 x2 y2 in pixels of the source.

        Returns:
          bool [G].
        """
        corners = self.transform_boxes(np.asarray(boxes).reshape(-1, 4))
        x1, y1, x2, y2 = np.moveaxis(corners, -1, 0)
        return (x2 > 0) & (x1 < self.size[1]) & (y2 > 0) & (y1 < self.size[0])


def place_whole_image(
    hw: tuple[int, int], resized: tuple[int, int] | None = None, resize: str = "pillow"
) -> Placement:
    """Places a complete image, neither rotated nor mirrored nor cropped.

    Args:
      hw: (height, width) of the image in pixels.
      resized: (height, width) on the canvas. None keeps the size.
      resize: "pillow" or "torchvision", see `Placement`.
    """
    resized = tuple(hw) if resized is None else tuple(resized)
    return Placement(tuple(hw), resized, (0, 0), resized, resize=resize)


def place_for_detection(
    hw: tuple[int, int],
    canvas: tuple[int, int],
    short_side: int = 0,
    long_side: int = 0,
    resize: str = "pillow",
) -> Placement:
    """Places an image as detectors see it at test time: complete, with a given shorter side.

    If the resized image would exceed the canvas, it becomes as large as the canvas holds.

    Args:
      hw: (height, width) of the image in pixels.
      canvas: (H, W) in pixels.
      short_side: see `compute_short_side_size`. 0 fills the canvas.
      long_side: see `compute_short_side_size`.
      resize: "pillow" or "torchvision", see `Placement`.
    """
    fitted = compute_fitted_size(hw, canvas)
    resized = compute_short_side_size(hw, short_side, long_side, resize) if short_side else fitted
    fits = resized[0] <= canvas[0] and resized[1] <= canvas[1]
    return place_whole_image(hw, resized if fits else fitted, resize)


def _map_corners(move: Callable[[np.ndarray], np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """Maps boxes [..., 4] by their corners. The result has x1 <= x2 and y1 <= y2."""
    boxes = np.asarray(boxes)
    corners = move(boxes.reshape(*boxes.shape[:-1], 2, 2))
    return np.concatenate([corners.min(-2), corners.max(-2)], -1)
