"""Examples for models that learn from images alone: random resized crops and center crops."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

from segjax.images.transforms import Box, compute_center_box, decode_crop

# Random boxes that are tried before the largest central one is used
_ATTEMPTS = 10


class CropExample:
    """Callable (record, rng) -> example: a square crop of the image. S = canvas.

    Example fields: ``image`` uint8 [S, S, 3], and ``weight`` float32, 1 (0 for placeholders).
    Training uses a random resized crop (`sample_crop_box`), evaluation a center crop
    (`compute_center_box`). Both are resized with a bicubic filter.

    With a `frame` F, the devices resize and mirror the crops of training
    (`segjax.ops.resize_crops`). That halves the work of the host if images were prepared with a
    shorter side of F pixels. The fields then are:

      image: uint8 [F, G, 3], with the crop in its top left. A crop that is taller than wide is
        transposed. G is the largest length of a crop.
      window: int32 [4], the height and width of the crop, and whether it is transposed and whether
        to mirror it.

    A crop that is larger than the frame is resized to the canvas on the host.

    Args:
      canvas: side S in pixels.
      train: True for random crops.
      scale: (low, high) of the area of a crop, as a share of the image.
      ratio: (low, high) of the width of a crop over its height.
      flip: mirror left and right with probability 0.5.
      frame: shorter side F in pixels of the arrays that go to the devices in training. 0 resizes
        to the canvas on the host.
      margin: shorter side of the image in canvases, for evaluation. 1 fills the canvas. More cuts
        off the borders.
      percentiles: stretches the intensities of each image, see `decode_image`.

    Raises:
      ValueError: an argument is out of range.
    """

    def __init__(
        self,
        canvas: int,
        *,
        train: bool = True,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip: bool = True,
        frame: int = 0,
        margin: float = 1.0,
        percentiles: tuple[float, float] | None = None,
    ):
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"crop scale is (low, high) with 0 < low <= high <= 1, got {tuple(scale)}"
            )
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"crop ratio is (low, high) with 0 < low <= high, got {tuple(ratio)}")
        if frame and frame < canvas:
            raise ValueError(
                f"crop frame is {frame}; expected at least the canvas, {canvas}, or 0 to resize on "
                "the host"
            )
        if not margin >= 1:
            raise ValueError(
                f"crop margin is at least 1 (the shorter side fills the canvas), got {margin}"
            )
        self.canvas, self.train, self.flip, self.percentiles = canvas, train, flip, percentiles
        self.margin = margin
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        # A crop of the shortest side F has at most this length; half a pixel for rounding
        longest = math.ceil((frame + 0.5) * max(ratio[1], 1 / ratio[0]))
        self.frame = (frame, longest) if frame and train else None

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Makes the example of a record. Raises ImageError if the image cannot be read."""

        def choose(hw: tuple[int, int]) -> tuple[Box, tuple[int, int]]:
            if self.train:
                box = sample_crop_box(hw, self.scale, self.ratio, rng)
            else:
                box = compute_center_box(hw, self.margin)
            # A crop that fits the frame is not resized here.
            fits = self.frame and min(box[2:]) <= self.frame[0] and max(box[2:]) <= self.frame[1]
            return box, box[2:] if fits else (self.canvas, self.canvas)

        options = dict(
            name=f"image {record['image_id']!r}", percentiles=self.percentiles, reduced=self.train
        )
        image = decode_crop(record["image"], choose, **options)
        mirrored = self.train and self.flip and rng.random() < 0.5
        if self.frame:
            return self._put_in_frame(image, mirrored) | {"weight": np.float32(1)}
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {"image": np.asarray(image), "weight": np.float32(1)}

    def _put_in_frame(self, crop: Image.Image, mirrored: bool) -> dict[str, np.ndarray]:
        """Puts a crop into the top left of a frame."""
        width, height = crop.size
        transposed = height > width
        if transposed:
            crop = crop.transpose(Image.Transpose.TRANSPOSE)
        image = np.zeros((*self.frame, 3), np.uint8)
        image[: crop.height, : crop.width] = np.asarray(crop)
        window = np.array([height, width, transposed, mirrored], np.int32)
        return {"image": image, "window": window}

    def placeholder(self) -> dict[str, np.ndarray]:
        """Returns a black example of weight 0."""
        if self.frame:
            black = Image.new("RGB", (self.canvas, self.canvas))
            return self._put_in_frame(black, False) | {"weight": np.float32(0)}
        return {"image": np.zeros((self.canvas, self.canvas, 3), np.uint8), "weight": np.float32(0)}


def sample_crop_box(
    hw: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Samples the box of a random resized crop (Szegedy et al. 2015, section 6).

    The area is uniform in `scale`, the aspect ratio log-uniform in `ratio`, the position uniform.
    If ten such boxes do not fit the image, the largest central one with an allowed ratio is used.

    Args:
      hw: (height, width) of the image in pixels.
      scale: (low, high) of the area, as a share of the image.
      ratio: (low, high) of width over height.
      rng: source of randomness.

    Returns:
      (top, left, height, width) in pixels.
    """
    height, width = hw
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h, w = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, max(h, 1), max(w, 1)
