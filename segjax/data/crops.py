"""From a record to a square picture, for models that learn from pictures alone: masks are not looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

from segjax.data.transforms import center_crop, decode_image

_ATTEMPTS = 10  # random boxes tried before the largest central one of an allowed shape is taken


class CropExample:
    """Callable (record, rng) -> example; a loader's ``example_fn``. S = canvas.

    Example: ``image`` uint8 [S, S, 3]; ``weight`` float32, 1 (0 of a placeholder). Training takes a random part of the
    picture (`random_box`), resized to the canvas; evaluation the middle of the picture (`center_crop`). Both are
    filtered bicubically.

    Args:
      canvas: side S in pixels.
      train: whether to crop at random.
      scale: (low, high) of a crop's area, as a share of the picture's.
      ratio: (low, high) of a crop's width over its height.
      flip: mirror left-right half the time.
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
        margin: float = 1.0,
        percentiles: tuple[float, float] | None = None,
    ):
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"crop scale is (low, high) with 0 < low <= high <= 1, got {tuple(scale)}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"crop ratio is (low, high) with 0 < low <= high, got {tuple(ratio)}")
        if not margin >= 1:
            raise ValueError(f"crop margin is at least 1 (the shorter side fills the canvas), got {margin}")
        self.canvas, self.train, self.flip, self.percentiles = canvas, train, flip, percentiles
        self.margin = margin
        self.scale, self.ratio = tuple(scale), tuple(ratio)

    def __call__(self, record: Mapping, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The example of ``record``; see the class. Raises ImageError for a picture that cannot be read."""
        image = decode_image(record["image"], name=f"image {record['image_id']!r}", percentiles=self.percentiles)
        if not self.train:
            return {"image": center_crop(image, self.canvas, self.margin), "weight": np.float32(1)}
        top, left, height, width = random_box(image.shape[:2], self.scale, self.ratio, rng)
        window = Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width]))
        pixels = np.asarray(window.resize((self.canvas, self.canvas), Image.BICUBIC))
        if self.flip and rng.random() < 0.5:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return {"image": pixels, "weight": np.float32(1)}

    def placeholder(self) -> dict[str, np.ndarray]:
        """An example that counts for nothing: black, of weight 0."""
        return {"image": np.zeros((self.canvas, self.canvas, 3), np.uint8), "weight": np.float32(0)}


def random_box(
    hw: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
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
