"""Synthetic scenes with exact masks: textured objects on photographs.

Objects overlap and hide one another. Some carry a part with a mask of its own, so that a click on
the part may mean the part or the whole. Each scene is a function of (seed, split, difficulty, size,
index) only, and nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from segjax.data.records import UNKNOWN_STUFF
from segjax.data.synthetic import photographs
from segjax.data.synthetic.shapes import SHAPES, FilledShape, fill_polygon, sample_outline
from segjax.data.synthetic.textures import load_textures, sample_background, sample_texture
from segjax.masks import compute_mask_box, encode_mask


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """Statistics of the scenes.

    Lengths are fractions of the side of a scene. Colors range from 0 to 255.

    Attributes:
      objects: smallest and largest number of objects, without their parts.
      radius: smallest and largest radius of an object.
      position_attempts: random positions tried for an object. The least crowded one is used.
      texture: smallest and largest standard deviation of the texture of an object.
      color_attempts: random colors tried for an object. The one that differs most from its
        background is used.
      chroma: True keeps the colors of a texture. False varies only the brightness.
      part_probability: how often a large enough object carries a part.
      part_carrier: least radius of an object with a part.
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
    # One class per scene, for classification
    "lone": Difficulty(objects=(1, 1), radius=(0.25, 0.4), part_probability=0.0),
    "medium": Difficulty(
        radius=(0.09, 0.26),
        position_attempts=1,
        texture=(14.0, 36.0),
        color_attempts=2,
        chroma=True,
    ),
}
# An object is listed if this share of its area is visible,
MIN_VISIBLE_FRACTION = 0.3
# and if its visible area is this share of the scene.
MIN_VISIBLE_AREA = 0.004
# Area of a part, as a share of the object that carries it
MIN_PART_FRACTION, MAX_PART_FRACTION = 0.12, 0.6


class SyntheticScenes:
    """Random-access source of synthetic scenes, as records (see `segjax.data.records`).

    Masks are the visible pixels: a pixel of two overlapping objects belongs to the upper one. The
    pixels of a part belong to the part and to the object that carries it. Nothing else overlaps.

    Example:
      >>> scenes = SyntheticScenes("train", count=100, size=64)
      >>> scenes[0]["image"].shape
      (64, 64, 3)

    Args:
      split: "train" or "heldout". Chooses the photographs of backgrounds and textures.
      count: number of scenes.
      size: side of a scene in pixels, at least 32.
      seed: other seeds give other scenes.
      difficulty: "easy", "lone", "medium", or a `Difficulty`.

    Raises:
      ValueError: an argument is out of range.
    """

    categories: tuple[str, ...] = SHAPES
    category_ids: tuple[int, ...] = tuple(range(len(SHAPES)))
    keypoint_names: tuple[str, ...] = ()
    keypoint_sigmas: tuple[float, ...] = ()
    frequencies: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()  # names of the classes 1..S of stuff
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
        if not isinstance(count, int) or count < 1:
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
        canvas, stuff = self._sample_background(rng)
        layers: list[Layer] = []  # bottom to top
        for _ in range(rng.integers(self.difficulty.objects[0], self.difficulty.objects[1] + 1)):
            self._add_object(rng, canvas, layers)
        image = np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
        listed = [layer for layer in layers if layer.is_large_enough()]
        record = self._make_record(f"{self.split}-{self.seed}-{index}", image, listed)
        return record if stuff is None else record | {"stuff": mark_objects(stuff, layers)}

    def _sample_background(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Samples the background, float32 [S, S, 3], and its classes of stuff, uint8 [S, S]."""
        return sample_background(rng, self.split, self.size), None

    def _add_object(
        self, rng: np.random.Generator, canvas: np.ndarray, layers: list[Layer]
    ) -> None:
        """Paints a random object on the canvas, and appends it to the layers."""
        radius, center = self._choose_position(rng, layers)
        kind = int(rng.integers(len(SHAPES)))
        shape = fill_polygon(sample_outline(rng, SHAPES[kind], radius) + center, self.size)
        hard_edge = rng.random() < 0.3
        alpha = shape.mask.astype(np.float32) if hard_edge else shape.alpha
        self._paint(rng, canvas, alpha, shape.box)
        area = np.count_nonzero(shape.mask)
        layer = add_layer(Layer(shape.mask.copy(), area, kind, center, radius), layers)
        carries = rng.random() < self.difficulty.part_probability
        if carries and radius >= self.difficulty.part_carrier * self.size:
            self._add_part(rng, canvas, shape, layer, layers)

    def _choose_position(
        self,
        rng: np.random.Generator,
        layers: list[Layer],
        radii: tuple[float, float] | None = None,
    ) -> tuple[float, np.ndarray]:
        """Returns a radius and the least crowded of some random centers [2] (x, y)."""
        radius = rng.uniform(*(radii or self.difficulty.radius)) * self.size
        attempts = (self.difficulty.position_attempts, 2)
        centers = rng.uniform(0.7 * radius, self.size - 0.7 * radius, attempts)
        crowding = [compute_crowding(center, radius, layers) for center in centers]
        return radius, centers[np.argmin(crowding)]

    def _add_part(
        self,
        rng: np.random.Generator,
        canvas: np.ndarray,
        carrier: FilledShape,
        layer: Layer,
        layers: list[Layer],
    ) -> None:
        """Paints a part of another color on an object, whose edge may cut it."""
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7) * layer.radius
        center = layer.center + distance * np.array([np.cos(angle), np.sin(angle)])
        radius = rng.uniform(0.4, 0.65) * layer.radius
        kind = int(rng.integers(len(SHAPES)))
        part = fill_polygon(sample_outline(rng, SHAPES[kind], radius) + center, self.size)
        mask = part.mask & carrier.mask
        area = np.count_nonzero(mask)
        if not MIN_PART_FRACTION < area / max(1, layer.area) < MAX_PART_FRACTION:
            return
        self._paint(rng, canvas, np.minimum(part.alpha, carrier.alpha), part.box)
        layers.append(Layer(mask, area, kind, center, radius, is_part=True))

    def _paint(
        self, rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, box: tuple
    ) -> None:
        """Blends a tinted crop of a photograph into the canvas, which is changed in place.

        Args:
          rng: source of randomness.
          canvas: float32 [S, S, 3].
          alpha: float32 [S, S], share of the new color.
          box: x1 y1 x2 y2 around the pixels with alpha above 0.
        """
        x1, y1, x2, y2 = box
        region, weight = canvas[y1:y2, x1:x2], alpha[y1:y2, x1:x2, None]
        # Mean color of the background; every third pixel is enough
        behind = (region[::3, ::3] * weight[::3, ::3]).sum((0, 1)) / (weight[::3, ::3].sum() + 1e-3)
        # Texture
        textures = load_textures(self.split, self.size, self.difficulty.chroma)
        texture = sample_texture(rng, textures, (y2 - y1, x2 - x1))
        deviation = math.sqrt(np.vdot(texture, texture) / texture.size)
        texture *= rng.uniform(*self.difficulty.texture) / (deviation + 4.0)
        # The candidate color that differs most from the background
        candidates = rng.uniform(20, 235, (self.difficulty.color_attempts, 3)).astype(np.float32)
        color = candidates[np.argmax(np.abs(candidates - behind).sum(-1))]
        # Blend in place: region += weight * (paint - region)
        paint = texture + color
        np.clip(paint, 0, 255, out=paint)
        paint -= region
        paint *= weight
        region += paint

    def _make_record(self, image_id: str, image: np.ndarray, layers: list[Layer]) -> dict:
        """Makes the record of a scene."""
        boxes = [compute_mask_box(layer.visible) for layer in layers]
        areas = [np.count_nonzero(layer.visible) for layer in layers]
        return {
            "image": image,
            "image_id": image_id,
            "height": image.shape[0],
            "width": image.shape[1],
            "objects": {
                "id": np.arange(len(layers), dtype=np.int64),
                "box": np.asarray(boxes, np.float32).reshape(-1, 4),
                "category": np.asarray([layer.kind for layer in layers], np.int32),
                "crowd": np.zeros(len(layers), bool),
                "area": np.asarray(areas, np.float32),
                "rle": [encode_mask(layer.visible) for layer in layers],
            },
        }


@dataclasses.dataclass
class Layer:
    """An object of a scene while it is painted.

    Attributes:
      visible: bool [S, S], pixels that no later object covers.
      area: pixels before occlusion.
      kind: index of its category.
      center: float64 [2], (x, y).
      radius: in pixels.
      is_part: True for the part of another object.
      joints: float64 [K, 2], (x, y), or None.
      description: indices of its color, texture, shape and size, in captioned scenes.
    """

    visible: np.ndarray
    area: int
    kind: int
    center: np.ndarray
    radius: float
    is_part: bool = False
    joints: np.ndarray | None = None
    description: tuple[int, ...] = ()

    def is_large_enough(self) -> bool:
        """Returns True if enough of the object is visible to list it."""
        area = np.count_nonzero(self.visible)
        return (
            area >= MIN_VISIBLE_AREA * self.visible.size
            and area >= MIN_VISIBLE_FRACTION * self.area
        )


def mark_objects(stuff: np.ndarray, layers: list[Layer]) -> np.ndarray:
    """Returns a map of stuff with 0 on listed objects, and unknown pixels on all others.

    Args:
      stuff: uint8 [S, S], class of the background of each pixel.
      layers: objects of the scene.
    """
    stuff = stuff.copy()
    for layer in layers:
        stuff[layer.visible] = 0 if layer.is_large_enough() else UNKNOWN_STUFF
    return stuff


def add_layer(layer: Layer, layers: list[Layer]) -> Layer:
    """Appends an object on top, which hides the pixels below it."""
    for below in layers:
        below.visible &= ~layer.visible
    layers.append(layer)
    return layer


def compute_crowding(center: np.ndarray, radius: float, layers: list[Layer]) -> float:
    """Computes how far an object would reach into the existing ones.

    Args:
      center: [2], (x, y).
      radius: in pixels.
      layers: existing objects. Parts are ignored.

    Returns:
      Sum of the overlaps of the radii in pixels. 0 is free space.
    """
    x, y = center.tolist()
    return sum(
        max(0.0, radius + layer.radius - math.hypot(x - layer.center[0], y - layer.center[1]))
        for layer in layers
        if not layer.is_part
    )
