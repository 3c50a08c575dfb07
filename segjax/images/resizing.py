"""Resizing of images for detectors: the size and the interpolation of each published library."""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image

Size = tuple[int, int]  # (height, width) in pixels


class Resize(Protocol):
    """Rule by which a library resizes images for its detectors.

    Attributes:
      dtype: of the pixels that its networks receive.
    """

    dtype: ClassVar[type]

    def compute_size(self, hw: Size, short_side: int, long_side: float) -> Size:
        """Computes the size of an image resized by its shorter side.

        Args:
          hw: (height, width) of the image.
          short_side: of the resized image.
          long_side: limit of the longer side. The shorter one gets smaller to keep it.

        Returns:
          (height, width), each at least 1.
        """

    def resize(self, pixels: np.ndarray, resized: Size, offset: Size, size: Size) -> np.ndarray:
        """Resizes an image, and cuts a window out of the result.

        Args:
          pixels: uint8 [H, W, ...].
          resized: (height, width) of the complete resized image.
          offset: (y, x) of the window in it.
          size: (height, width) of the window.

        Returns:
          uint8 [height, width, ...].
        """

    def resize_exactly(
        self, pixels: np.ndarray, resized: Size, offset: Size, size: Size
    ) -> np.ndarray:
        """Resizes like `resize`, to the values that the library's networks receive.

        Returns:
          `dtype` [height, width, ...].
        """


class PillowResize:
    """detectron2's rule: sides are rounded, and Pillow interpolates bytes with antialiasing."""

    dtype = np.uint8

    def compute_size(self, hw: Size, short_side: int, long_side: float) -> Size:
        # Two steps, as in detectron2. A product of both factors would round differently at halves.
        sides = [short_side if side == min(hw) else side * (short_side / min(hw)) for side in hw]
        shrunk = min(1, long_side / max(sides))
        return max(1, int(sides[0] * shrunk + 0.5)), max(1, int(sides[1] * shrunk + 0.5))

    def resize(self, pixels: np.ndarray, resized: Size, offset: Size, size: Size) -> np.ndarray:
        window = find_window(pixels.shape[:2], resized, offset, size)
        image = Image.fromarray(np.ascontiguousarray(pixels))
        # Pillow filters across the edge of the window. The result equals a crop of the resized
        # image, without the cost of resizing all of it.
        return np.asarray(image.resize(size[::-1], Image.BILINEAR, box=window))

    resize_exactly = resize


class TorchvisionResize:
    """torchvision's rule: sides are rounded down, and floats interpolated without antialiasing.

    Training keeps bytes, which need a quarter of the memory of floats on their way to the device.
    They differ from torchvision's floats by at most half a gray level where an image shrinks, and
    by at most one where it grows.
    """

    dtype = np.float32

    def compute_size(self, hw: Size, short_side: int, long_side: float) -> Size:
        scale = min(short_side / min(hw), long_side / max(hw))
        return max(1, int(hw[0] * scale)), max(1, int(hw[1] * scale))

    def resize(self, pixels: np.ndarray, resized: Size, offset: Size, size: Size) -> np.ndarray:
        # Both filters are equal where an image grows. Pillow's is faster, and rounds twice.
        if resized[0] >= pixels.shape[0] and resized[1] >= pixels.shape[1]:
            return PillowResize().resize(pixels, resized, offset, size)
        return (self.resize_exactly(pixels, resized, offset, size) + 0.5).astype(np.uint8)

    def resize_exactly(
        self, pixels: np.ndarray, resized: Size, offset: Size, size: Size
    ) -> np.ndarray:
        out = pixels
        # Shrinking axes come first, which leaves less to do for the other.
        for axis in sorted((0, 1), key=lambda axis: resized[axis] / pixels.shape[axis]):
            positions = _find_positions(pixels.shape[axis], resized[axis])
            positions = positions[offset[axis] : offset[axis] + size[axis]]
            out = _interpolate(out, positions, axis)
        return out


RESIZES: dict[str, Resize] = {"pillow": PillowResize(), "torchvision": TorchvisionResize()}


def find_resize(name: str) -> Resize:
    """Returns the rule of a name.

    Raises:
      ValueError: unknown name.
    """
    if name not in RESIZES:
        raise ValueError(f"resize {name!r} is unknown; choose one of {', '.join(RESIZES)}")
    return RESIZES[name]


def find_window(
    hw: Size, resized: Size, offset: Size, size: Size
) -> tuple[float, float, float, float]:
    """Returns x1 y1 x2 y2 of a window of a resized image, in pixels of the image itself.

    Args:
      hw: (height, width) of the image.
      resized: (height, width) of the resized image.
      offset: (y, x) of the window in the resized image.
      size: (height, width) of the window.
    """
    scale = np.array(hw) / resized
    (top, left), (bottom, right) = offset * scale, np.add(offset, size) * scale
    return left, top, min(right, hw[1]), min(bottom, hw[0])


def compute_short_side_size(
    hw: Size, short_side: int, long_side: int = 0, resize: str = "pillow"
) -> Size:
    """Computes the size of an image resized by its shorter side.

    detectron2 ("pillow") rounds the sides. torchvision rounds them down.

    Example:
      >>> compute_short_side_size((480, 640), 800), compute_short_side_size((300, 600), 800, 1333)
      ((800, 1067), (667, 1333))

    Args:
      hw: (height, width) of the image in pixels.
      short_side: of the resized image, in pixels.
      long_side: limit of the longer side. The shorter one gets smaller to keep it. 0: no limit.
      resize: "pillow" or "torchvision".

    Returns:
      (height, width) in pixels, each at least 1.

    Raises:
      ValueError: unknown `resize`.
    """
    return find_resize(resize).compute_size(tuple(hw), short_side, long_side or math.inf)


def _find_positions(length: int, resized: int) -> np.ndarray:
    """Finds the position of each pixel of a resized axis on the axis itself, float32 [resized].

    Pixel centers lie at 0, 1, 2 and so on. PyTorch computes in float32, with one rounding of the
    product and the half pixel, as `segjax.ops.resize.linear_weights` does on maps.
    """
    ratio = np.float64(np.float32(length) / np.float32(resized))
    positions = (ratio * (np.arange(resized) + 0.5) - 0.5).astype(np.float32)
    return positions.clip(0, length - 1)


def _interpolate(pixels: np.ndarray, positions: np.ndarray, axis: int) -> np.ndarray:
    """Interpolates linearly along one axis, float32."""
    low = positions.astype(np.int64)
    high = np.minimum(low + 1, pixels.shape[axis] - 1)
    fraction = (positions - low).reshape([-1 if k == axis else 1 for k in range(pixels.ndim)])
    below = pixels.take(low, axis).astype(np.float32)
    out = pixels.take(high, axis).astype(np.float32)
    # In place, as such arrays have tens of megabytes.
    out -= below
    out *= fraction
    out += below
    return out
