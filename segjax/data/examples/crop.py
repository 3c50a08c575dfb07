"""From a record to a square picture, for models that learn from pictures alone: masks are not looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

from segjax.images.transforms import Box, compute_center_box, decode_crop

_ATTEMPTS = 10  # random boxes tried before the largest central one of an allowed shape is taken


class CropExample:
    """Callable (record, rng) -> example; a loader's ``example_fn``. S = canvas.

    Example: ``image`` uint8 [S, S, 3]; ``weight`` float32, 1 (0 of a placeholder). Training takes a random part of the
    picture (`sample_crop_box`), resized to the canvas; evaluation the middle of the picture (`compute_center_box`). Both are
    filtered bicubically.

    With a `frame` F, training leaves resizing and mirroring to the devices (`segjax.ops.resize_crops`), which takes
    half of the work from the host where pictures were prepared with a shorter side of F pixels. Then ``image`` is uint8
    [F, G, 3] with the part in its top left, turned over its diagonal if it is higher than wide, G the longest that a
    part can be, and ``window`` int32 [4] says its (height, width), whether it is turned and whether to mirror it. A
    part that is larger than the frame, of a larger picture, is resized to the canvas here.

    Args:
      canvas: side S in pixels.
      train: whether to crop at random.
      scale: (low, high) of a crop's area, as a share of the picture's.
      ratio: (low, high) of a crop's width over its height.
      flip: mirror left-right half the time.
      frame: shorter side F in pixels of what goes to the devices in training; 0: the canvas itself does.
      margin: in evaluation, the picture's shorter side in canvases; 1 fills the canvas, more cuts the borders off.
      percentiles: stretch intensities between these percentiles of each picture, see `decode_image`.
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
                f"crop frame is {frame}; expected at least the canvas, {canvas}, or 0 to resize on the host"
            )
        if not margin >= 1:
            raise ValueError(
                f"crop margin is at least 1 (the shorter side fills the canvas), got {margin}"
            )
        self.canvas, self.train, self.flip, self.percentiles = canvas, train, flip, percentiles
        self.margin = margin
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        self.frame = (
            (frame, math.ceil((frame + 0.5) * max(ratio[1], 1 / ratio[0])))
            if frame and train
            else None
        )

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The example of ``record``; see the class. Raises ImageError for a picture that cannot be read."""

        def choose(hw: tuple[int, int]) -> tuple[Box, tuple[int, int]]:
            box = (
                sample_crop_box(hw, self.scale, self.ratio, rng)
                if self.train
                else compute_center_box(hw, self.margin)
            )
            fits = self.frame and min(box[2:]) <= self.frame[0] and max(box[2:]) <= self.frame[1]
            return box, box[2:] if fits else (self.canvas, self.canvas)

        options = dict(
            name=f"image {record['image_id']!r}", percentiles=self.percentiles, reduced=self.train
        )
        picture = decode_crop(record["image"], choose, **options)
        mirrored = self.train and self.flip and rng.random() < 0.5
        if self.frame:
            return self._framed(picture, mirrored) | {"weight": np.float32(1)}
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return {"image": np.asarray(picture), "weight": np.float32(1)}

    def _framed(self, picture: Image.Image, mirrored: bool) -> dict[str, np.ndarray]:
        width, height = picture.size
        turned = height > width
        if turned:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        image = np.zeros((*self.frame, 3), np.uint8)
        image[: picture.height, : picture.width] = np.asarray(picture)
        return {"image": image, "window": np.array([height, width, turned, mirrored], np.int32)}

    def placeholder(self) -> dict[str, np.ndarray]:
        """An example that counts for nothing: black, of weight 0."""
        if self.frame:
            black = Image.new("RGB", (self.canvas, self.canvas))
            return self._framed(black, False) | {"weight": np.float32(0)}
        return {"image": np.zeros((self.canvas, self.canvas, 3), np.uint8), "weight": np.float32(0)}


def sample_crop_box(
    hw: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """A random part of a picture, as Inception was trained on (Szegedy et al. 2015, section 6).

    Its area is uniform in `scale`, its shape uniform in the logarithm of `ratio`, its place uniform. When such boxes do
    not fit the picture ten times over, the largest central one of an allowed shape is taken.

    Returns:
      (top, left, height, width), pixels.
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
