"""Scenes with exact masks, made from nothing but an index: textured objects laid over photographs.

Objects overlap and hide one another; some carry a part with a mask of its own, so that a click on the part
means the part as well as the whole. Each scene is a function of (seed, split, difficulty, size, index) alone.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np
from PIL import Image

from segjax.data.synthetic import photographs
from segjax.data.synthetic.shapes import SHAPES, FilledShape, fill_polygon, sample_outline
from segjax.masks import compute_mask_box, encode_mask

# Photographs are held at this many times a scene's side: crops need no more, and resizing them is the main cost.
_PHOTOGRAPH_SIDES = 3


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """What a scene looks like. Lengths are fractions of the scene's side; color_attempts are on the 0-255 scale.

    Attributes:
      objects: fewest and most objects laid down, parts not counted.
      radius: least and greatest radius of an object.
      position_attempts: random places tried for an object; the one least crowded is taken.
      texture: least and greatest standard deviation of an object's texture.
      color_attempts: random color_attempts tried for an object; the one farthest from what lies behind it is taken.
      chroma: whether a texture keeps its own variation of colour, or is one colour lighter and darker.
      part_probability: how often an object carries a part, if its radius is at least part_carrier.
    """

    objects: tuple[int, int] = (3, 6)
    radius: tuple[float, float] = (0.12, 0.28)
    position_attempts: int = 3
    texture: tuple[float, float] = (6.0, 16.0)
    color_attempts: int = 8
    chroma: bool = False
    part_probability: float = 0.35
    part_carrier: float = 0.2


DIFFICULTIES = {
    "easy": Difficulty(),
    "lone": Difficulty(
        objects=(1, 1), radius=(0.25, 0.4), part_probability=0.0
    ),  # one class a scene
    "medium": Difficulty(
        radius=(0.09, 0.26), position_attempts=1, texture=(14.0, 36.0), color_attempts=2, chroma=True
    ),
}
MIN_VISIBLE_FRACTION = 0.3  # of an object's own area; less, and it is no longer listed
MIN_VISIBLE_AREA = 0.004  # of the scene's area
MIN_PART_FRACTION, MAX_PART_FRACTION = 0.12, 0.6  # of its whole's area


class SyntheticScenes:
    """A random-access source of ``count`` scenes of ``size`` x ``size`` pixels, in the record schema of `records`.

    ``category`` is an index into `categories`. Masks are what is visible: a pixel of two overlapping objects
    belongs to the upper one. A part's pixels belong to the part and to its whole. Nothing else overlaps.

    Args:
      split: "train" or "heldout": which photographs lend backgrounds and textures.
      count: number of scenes.
      size: side in pixels, at least 32.
      seed: other seeds give other scenes.
      difficulty: "easy", "lone" or "medium", or a `Difficulty`.
    """

    categories: tuple[str, ...] = SHAPES
    category_ids: tuple[int, ...] = tuple(range(len(SHAPES)))
    keypoint_names: tuple[str, ...] = ()
    keypoint_sigmas: tuple[float, ...] = ()
    frequencies: tuple[str, ...] = ()
    difficulties: Mapping[str, Difficulty] = DIFFICULTIES

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
        if isinstance(difficulty, str) and difficulty not in self.difficulties:
            raise ValueError(
                f"unknown difficulty {difficulty!r}; there are {list(self.difficulties)}"
            )
        if count < 1:
            raise ValueError(f"count must be at least 1 scene, got {count}")
        if size < 32:
            raise ValueError(
                f"size must be at least 32 pixels, got {size}: objects would be a few pixels wide"
            )
        self.split, self.count, self.size, self.seed = split, count, size, seed
        self.difficulty = (
            self.difficulties[difficulty] if isinstance(difficulty, str) else difficulty
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}: expected 0 to {self.count - 1}")
        rng = np.random.default_rng([self.seed, list(photographs.SPLITS).index(self.split), index])
        canvas = _background(rng, self.split, self.size)
        drawn: list[Layer] = []  # bottom to top
        for _ in range(rng.integers(self.difficulty.objects[0], self.difficulty.objects[1] + 1)):
            self._add_object(rng, canvas, drawn)
        image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
        return self._record(
            f"{self.split}-{self.seed}-{index}",
            image,
            [each for each in drawn if each.is_large_enough()],
        )

    def _add_object(self, rng: np.random.Generator, canvas: np.ndarray, drawn: list[Layer]) -> None:
        radius, centre = self._place(rng, drawn)
        kind = int(rng.integers(len(SHAPES)))
        whole = fill_polygon(sample_outline(rng, SHAPES[kind], radius) + centre, self.size)
        hard_edge = rng.random() < 0.3
        self._paint(
            rng, canvas, whole.mask.astype(np.float32) if hard_edge else whole.alpha, whole.box
        )
        layer = add_layer(
            Layer(whole.mask.copy(), np.count_nonzero(whole.mask), kind, centre, radius), drawn
        )
        carries = rng.random() < self.difficulty.part_probability
        if carries and radius >= self.difficulty.part_carrier * self.size:
            self._add_part(rng, canvas, whole, layer, drawn)

    def _place(self, rng: np.random.Generator, drawn: list[Layer]) -> tuple[float, np.ndarray]:
        """Radius, and centre [2] (x, y): the least crowded of some places."""
        radius = rng.uniform(*self.difficulty.radius) * self.size
        places = rng.uniform(0.7 * radius, self.size - 0.7 * radius, (self.difficulty.position_attempts, 2))
        return radius, places[np.argmin([compute_crowding(place, radius, drawn) for place in places])]

    def _add_part(
        self,
        rng: np.random.Generator,
        canvas: np.ndarray,
        whole: FilledShape,
        layer: Layer,
        drawn: list[Layer],
    ) -> None:
        """Paints a differently tinted part inside ``whole``: a smaller shape, which the whole's edge may cut."""
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7) * layer.radius
        centre = layer.centre + distance * np.array([np.cos(angle), np.sin(angle)])
        radius = rng.uniform(0.4, 0.65) * layer.radius
        kind = int(rng.integers(len(SHAPES)))
        inner = fill_polygon(sample_outline(rng, SHAPES[kind], radius) + centre, self.size)
        mask = inner.mask & whole.mask
        area = np.count_nonzero(mask)
        if not MIN_PART_FRACTION < area / max(1, layer.area) < MAX_PART_FRACTION:
            return
        self._paint(rng, canvas, np.minimum(inner.alpha, whole.alpha), inner.box)
        drawn.append(Layer(mask, area, kind, centre, radius, is_part=True))

    def _paint(
        self, rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, box: tuple
    ) -> None:
        """Lays a re-tinted crop of a photograph over ``canvas`` (changed in place) where ``alpha`` says."""
        x1, y1, x2, y2 = box
        region, weight = canvas[y1:y2, x1:x2], alpha[y1:y2, x1:x2, None]
        behind = (region[::3, ::3] * weight[::3, ::3]).sum((0, 1)) / (weight[::3, ::3].sum() + 1e-3)
        texture = _texture(
            rng, _textures(self.split, self.size, self.difficulty.chroma), (y2 - y1, x2 - x1)
        )
        deviation = math.sqrt(np.vdot(texture, texture) / texture.size)
        texture *= rng.uniform(*self.difficulty.texture) / (deviation + 4.0)
        candidates = rng.uniform(20, 235, (self.difficulty.color_attempts, 3)).astype(np.float32)
        colour = candidates[np.argmax(np.abs(candidates - behind).sum(-1))]
        paint = texture + colour
        np.clip(paint, 0, 255, out=paint)
        paint -= region
        paint *= weight
        region += paint

    def _record(self, image_id: str, image: np.ndarray, kept: list[Layer]) -> dict:
        return {
            "image": image,
            "image_id": image_id,
            "height": image.shape[0],
            "width": image.shape[1],
            "objects": {
                "id": np.arange(len(kept), dtype=np.int64),
                "box": np.asarray([compute_mask_box(layer.visible) for layer in kept], np.float32).reshape(
                    -1, 4
                ),
                "category": np.asarray([layer.kind for layer in kept], np.int32),
                "crowd": np.zeros(len(kept), bool),
                "area": np.asarray([np.count_nonzero(layer.visible) for layer in kept], np.float32),
                "rle": [encode_mask(layer.visible) for layer in kept],
            },
        }


@dataclasses.dataclass
class Layer:
    """An object of a scene in the making: what is visible of it so far, its area before occlusion, where it lies, and
    its joints [K, 2] (x, y) if it has any."""

    visible: np.ndarray
    area: int
    kind: int
    centre: np.ndarray
    radius: float
    is_part: bool = False
    joints: np.ndarray | None = None

    def is_large_enough(self) -> bool:
        area = np.count_nonzero(self.visible)
        return (
            area >= MIN_VISIBLE_AREA * self.visible.size
            and area >= MIN_VISIBLE_FRACTION * self.area
        )


def add_layer(layer: Layer, drawn: list[Layer]) -> Layer:
    """Puts an object on top: what it covers of the others is no longer visible."""
    for below in drawn:
        below.visible &= ~layer.visible
    drawn.append(layer)
    return layer


def compute_crowding(place: np.ndarray, radius: float, drawn: list[Layer]) -> float:
    """How far an object there would reach into those already drawn; 0 is free."""
    x, y = place.tolist()
    return sum(
        max(0.0, radius + layer.radius - math.hypot(x - layer.centre[0], y - layer.centre[1]))
        for layer in drawn
        if not layer.is_part
    )


@functools.cache
def _pictures(split: str, size: int) -> tuple[Image.Image, ...]:
    pictures = []
    for pixels in photographs.load_photographs(split).values():
        picture = Image.fromarray(pixels)
        picture.thumbnail((_PHOTOGRAPH_SIDES * size, _PHOTOGRAPH_SIDES * size))
        pictures.append(picture)
    return tuple(pictures)


@functools.cache
def _textures(split: str, size: int, chroma: bool) -> tuple[np.ndarray, ...]:
    return tuple(
        np.asarray(picture if chroma else picture.convert("L"))
        for picture in _pictures(split, size)
    )


def _background(rng: np.random.Generator, split: str, size: int) -> np.ndarray:
    """A square crop of a photograph, float32 [size, size, 3]."""
    pictures = _pictures(split, size)
    picture = pictures[rng.integers(len(pictures))]
    shortest = min(picture.size)
    side = rng.uniform(min(0.4, size / shortest), 1.0) * shortest
    x, y = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
    crop = picture.resize(
        (size, size), Image.BILINEAR, box=(x, y, x + side, y + side), reducing_gap=2.0
    )
    pixels = np.asarray(crop)[:, :: 1 if rng.random() < 0.5 else -1]
    return pixels.astype(np.float32, order="C")


def _texture(
    rng: np.random.Generator, textures: tuple[np.ndarray, ...], hw: tuple[int, int]
) -> np.ndarray:
    """A crop of a photograph less its mean, float32 [h, w, 3] or [h, w, 1]; mirrored where the photograph ends."""
    pixels = textures[rng.integers(len(textures))]
    missing = [max(0, hw[axis] - pixels.shape[axis]) for axis in range(2)]
    if any(missing):
        padding = [(0, missing[0]), (0, missing[1]), (0, 0)]
        pixels = np.pad(pixels, padding[: pixels.ndim], mode="symmetric")
    y = rng.integers(pixels.shape[0] - hw[0] + 1)
    x = rng.integers(pixels.shape[1] - hw[1] + 1)
    crop = pixels[y : y + hw[0], x : x + hw[1]].astype(np.float32).reshape(*hw, -1)
    return crop - crop.mean((0, 1))
