"""Scenes with exact masks, made from nothing but an index: textured objects laid over photographs.

Objects overlap and hide one another; some carry a part with a mask of its own, so that a click on the part means
the part as well as the whole. Each scene is a function of (seed, split, difficulty, size, index) alone.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from PIL import Image

from segjax.data import photographs
from segjax.data.records import encode_mask
from segjax.data.shapes import SHAPES, draw_polygon, polygon

_LONGEST_SIDE = (
    512  # photographs are held at most this large: crops need no more, and resizing them is the main cost
)


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """What a scene looks like. Lengths are fractions of the scene's side; colours are on the 0-255 scale."""

    objects: tuple[int, int] = (3, 6)
    radius: tuple[float, float] = (0.12, 0.28)
    texture: tuple[float, float] = (6.0, 16.0)  # standard deviation of an object's texture
    colours: int = 8  # colours tried for an object; the one farthest from what lies behind it is taken
    chroma: float = 0.0  # how much of the texture's own colour variation is kept
    part_probability: float = 0.35


DIFFICULTIES = {
    "easy": Difficulty(),
    "medium": Difficulty(radius=(0.09, 0.26), texture=(14.0, 36.0), colours=2, chroma=1.0),
}
MIN_VISIBLE_FRACTION = 0.3  # of an object's own area; less, and it is no longer listed
MIN_VISIBLE_AREA = 0.004  # of the scene's area


class SyntheticScenes:
    """A random-access source of ``count`` scenes of ``size`` x ``size`` pixels, in the record schema of `records`.

    ``category`` is an index into `shapes.SHAPES`. Masks are what is visible: a pixel of two overlapping objects
    belongs to the upper one. A part's pixels belong to the part and to its whole. Nothing else overlaps.

    Args:
      split: "train" or "heldout": which photographs lend backgrounds and textures.
      count: number of scenes.
      size: side in pixels, at least 32.
      seed: other seeds give other scenes.
      difficulty: "easy" or "medium", or a `Difficulty`.
    """

    def __init__(
        self,
        split: str,
        count: int,
        size: int = 128,
        seed: int = 0,
        difficulty: str | Difficulty = "easy",
    ):
        if split not in photographs.SPLITS:
            raise ValueError(
                f"unknown split {split!r} of synthetic scenes; there are {list(photographs.SPLITS)}"
            )
        if isinstance(difficulty, str) and difficulty not in DIFFICULTIES:
            raise ValueError(f"unknown difficulty {difficulty!r}; there are {list(DIFFICULTIES)}")
        if count < 1:
            raise ValueError(f"count must be at least 1 scene, got {count}")
        if size < 32:
            raise ValueError(
                f"size must be at least 32 pixels, got {size}: objects would be a few pixels wide"
            )
        self.split, self.count, self.size, self.seed = split, count, size, seed
        self.difficulty = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}: expected 0 to {self.count - 1}")
        rng = np.random.default_rng([self.seed, list(photographs.SPLITS).index(self.split), index])
        canvas = _background(rng, self.split, self.size)
        drawn = []  # bottom to top: [visible mask, area before occlusion, category]
        for _ in range(rng.integers(self.difficulty.objects[0], self.difficulty.objects[1] + 1)):
            self._add_object(rng, canvas, drawn)
        image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
        return _record(f"{self.split}-{self.seed}-{index}", image, drawn)

    def _add_object(self, rng: np.random.Generator, canvas: np.ndarray, drawn: list) -> None:
        radius = rng.uniform(*self.difficulty.radius) * self.size
        centre = rng.uniform(0.7 * radius, self.size - 0.7 * radius, 2)
        kind = int(rng.integers(len(SHAPES)))
        whole = draw_polygon(polygon(rng, SHAPES[kind], radius) + centre, self.size)
        if not _is_large_enough(whole.mask, whole.mask.sum()):
            return
        for entry in drawn:
            entry[0] &= ~whole.mask
        hard = rng.random() < 0.3
        self._paint(rng, canvas, whole.alpha if not hard else whole.mask.astype(np.float32), whole.box)
        drawn.append([whole.mask, whole.mask.sum(), kind])
        if rng.random() < self.difficulty.part_probability:
            self._add_part(rng, canvas, whole, centre, radius, drawn)

    def _add_part(self, rng, canvas, whole, centre, radius, drawn) -> None:
        """Paints a differently tinted part inside ``whole``: an inner shape, which may be cut by the whole's edge."""
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7) * radius
        kind = int(rng.integers(len(SHAPES)))
        offset = distance * np.array([np.cos(angle), np.sin(angle)])
        inner = draw_polygon(
            polygon(rng, SHAPES[kind], rng.uniform(0.4, 0.65) * radius) + centre + offset, self.size
        )
        mask = inner.mask & whole.mask
        area, of_whole = mask.sum(), whole.mask.sum()
        if not 0.12 * of_whole < area < 0.6 * of_whole or not _is_large_enough(mask, area):
            return
        self._paint(rng, canvas, np.minimum(inner.alpha, whole.alpha), inner.box)
        drawn.append([mask, area, kind])

    def _paint(self, rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, box: tuple) -> None:
        """Lays a re-tinted crop of another photograph over ``canvas`` (changed in place) where ``alpha`` says."""
        x1, y1, x2, y2 = box
        region, weight = canvas[y1:y2, x1:x2], alpha[y1:y2, x1:x2, None]
        behind = (region * weight).sum((0, 1)) / weight.sum()
        texture = _texture(rng, self.split, (y2 - y1, x2 - x1))
        if not self.difficulty.chroma:
            texture = texture.mean(-1, keepdims=True)
        texture -= texture.mean((0, 1))
        texture *= rng.uniform(*self.difficulty.texture) / (texture.std() + 4.0)
        candidates = rng.uniform(20, 235, (self.difficulty.colours, 3))
        colour = candidates[np.argmax(np.abs(candidates - behind).sum(-1))]
        region += weight * (np.clip(texture + colour, 0, 255) - region)


@functools.cache
def _pictures(split: str) -> tuple[Image.Image, ...]:
    pictures = []
    for pixels in photographs.photographs(split).values():
        picture = Image.fromarray(pixels)
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        pictures.append(picture)
    return tuple(pictures)


@functools.cache
def _textures(split: str) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(picture) for picture in _pictures(split))


def _background(rng: np.random.Generator, split: str, size: int) -> np.ndarray:
    """A square crop of a photograph, float32 [size, size, 3]."""
    pictures = _pictures(split)
    picture = pictures[rng.integers(len(pictures))]
    shortest = min(picture.size)
    side = rng.uniform(min(0.4, size / shortest), 1.0) * shortest
    x, y = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
    crop = picture.resize((size, size), Image.BILINEAR, box=(x, y, x + side, y + side))
    pixels = np.array(crop, np.float32)
    return pixels[:, ::-1].copy() if rng.random() < 0.5 else pixels


def _texture(rng: np.random.Generator, split: str, hw: tuple[int, int]) -> np.ndarray:
    """A crop of a photograph, float32 [h, w, 3]; mirrored where the photograph is smaller than the crop."""
    textures = _textures(split)
    pixels = textures[rng.integers(len(textures))]
    missing = [max(0, want - have) for want, have in zip(hw, pixels.shape, strict=False)]
    if any(missing):
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="symmetric")
    y = rng.integers(pixels.shape[0] - hw[0] + 1)
    x = rng.integers(pixels.shape[1] - hw[1] + 1)
    return pixels[y : y + hw[0], x : x + hw[1]].astype(np.float32)


def _is_large_enough(visible: np.ndarray, own_area: int) -> bool:
    area = np.count_nonzero(visible)
    return area >= MIN_VISIBLE_AREA * visible.size and area >= MIN_VISIBLE_FRACTION * own_area


def _record(image_id: str, image: np.ndarray, drawn: list) -> dict:
    height, width = image.shape[:2]
    kept = [(mask, kind) for mask, own_area, kind in drawn if _is_large_enough(mask, own_area)]
    boxes = []
    for mask, _ in kept:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return {
        "image": image,
        "image_id": image_id,
        "height": height,
        "width": width,
        "objects": {
            "id": np.arange(len(kept), dtype=np.int64),
            "box": np.asarray(boxes, np.float32).reshape(-1, 4),
            "category": np.asarray([kind for _, kind in kept], np.int32),
            "crowd": np.zeros(len(kept), bool),
            "area": np.asarray([mask.sum() for mask, _ in kept], np.float32),
            "rle": [encode_mask(mask) for mask, _ in kept],
        },
    }
