"""Scenes with captions: objects of named color, texture, shape and size, and phrases for each.

One combination in five of color, texture and shape occurs in the held-out split alone, so that a
model has to compose what it learned. All of it is generated from an index, without a download.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from segjax.data.synthetic.scenes import Difficulty, Layer, SyntheticScenes, add_layer
from segjax.data.synthetic.shapes import fill_polygon, sample_outline
from segjax.text.words import COLORS, RELATIONS, SHAPES, SIZES, TEXTURES

_RGB = {
    "red": (205, 40, 40),
    "green": (45, 165, 60),
    "blue": (45, 75, 205),
    "yellow": (230, 215, 50),
    "purple": (145, 50, 170),
    "orange": (240, 130, 25),
    "white": (238, 238, 238),
    "black": (25, 25, 25),
}
_COLOR_NOISE = 10.0  # standard deviation of a color around its name's
# Radii of small and of large objects, in sides of a scene
_RADII = {"small": (0.1, 0.14), "large": (0.2, 0.28)}
_HELD_OUT = 5  # one combination in so many is held out
# Probability that an object repeats the color, the texture or the shape of an earlier one, and how
# often a combination of the split is tried for
_REPEAT, _ATTEMPTS = 0.6, 50
# A relation holds if the centers differ by this share of the side, and more than across.
_APART = 0.12

Combination = tuple[int, int, int]  # indices of color, texture and shape


@functools.cache  # every object of every scene asks for them
def list_combinations(split: str) -> tuple[Combination, ...]:
    """Returns the combinations of color, texture and shape of a split.

    Args:
      split: "train" or "heldout". They have no combination in common; each color, texture and
        shape occurs in both.
    """
    sizes = (len(COLORS), len(TEXTURES), len(SHAPES))
    return tuple(
        combination
        for combination in itertools.product(*map(range, sizes))
        if is_held_out(combination) == (split == "heldout")
    )


def is_held_out(combination: Combination) -> bool:
    """Tells whether a combination belongs to the held-out split."""
    color, texture, shape = combination
    return (color + 2 * texture + 3 * shape) % _HELD_OUT == 0


def choose_combination(
    rng: np.random.Generator, split: str, earlier: Sequence[tuple[int, ...]]
) -> Combination:
    """Chooses a combination of a split that shares much with the objects that are there already.

    Color alone would tell most objects apart otherwise, and a model would learn no other word. No
    two objects of a scene have the same combination.

    Args:
      rng: source of randomness.
      split: "train" or "heldout".
      earlier: descriptions of the objects in the scene, which begin with their combinations.
    """
    there = {tuple(description[:3]) for description in earlier}
    combinations = [other for other in list_combinations(split) if other not in there]
    chosen = combinations[rng.integers(len(combinations))]
    for _ in range(_ATTEMPTS if earlier else 0):
        other = combinations[rng.integers(len(combinations))]
        mixed = tuple(
            earlier[rng.integers(len(earlier))][axis] if rng.random() < _REPEAT else other[axis]
            for axis in range(3)
        )
        if mixed in combinations:
            return mixed
    return chosen


class CaptionedScenes(SyntheticScenes):
    """Random-access source of scenes with captions. Its arguments are those of `SyntheticScenes`.

    The objects of a record have ``phrases``, see `segjax.data.records`. An object that no phrase
    tells from the others has an empty text. Categories are the shapes.
    """

    categories, category_ids = SHAPES, tuple(range(len(SHAPES)))
    difficulties: Mapping[str, Difficulty] = {
        "easy": Difficulty(objects=(3, 5), radius=(0.1, 0.28), part_probability=0.0),
        "lone": Difficulty(objects=(1, 1), radius=(0.1, 0.28), part_probability=0.0),
    }

    def _add_object(
        self, rng: np.random.Generator, canvas: np.ndarray, layers: list[Layer]
    ) -> None:
        combination = choose_combination(rng, self.split, [layer.description for layer in layers])
        size = SIZES[rng.integers(len(SIZES))]
        radius, center = self._choose_position(rng, layers, _RADII[size])
        outline = sample_outline(rng, SHAPES[combination[2]], radius) + center
        shape = fill_polygon(outline, self.size)
        x1, y1, x2, y2 = shape.box
        region, alpha = canvas[y1:y2, x1:x2], shape.alpha[y1:y2, x1:x2, None]
        region += alpha * (mix_paint(rng, combination, radius, region.shape[:2]) - region)
        area = np.count_nonzero(shape.mask)
        layer = Layer(shape.mask.copy(), area, combination[2], center, radius)
        layer.description = (*combination, SIZES.index(size))
        add_layer(layer, layers)

    def _make_record(self, image_id: str, image: np.ndarray, layers: list[Layer]) -> dict:
        record = super()._make_record(image_id, image, layers)
        phrases = np.array(write_phrases(layers, self.size), dtype=object)
        return record | {"objects": record["objects"] | {"phrases": phrases}}


def mix_paint(
    rng: np.random.Generator, combination: Combination, radius: float, hw: tuple[int, int]
) -> np.ndarray:
    """Mixes the color and the texture of an object, float32 [h, w, 3] with values 0..255.

    Args:
      rng: source of randomness.
      combination: indices of color, texture and shape.
      radius: of the object in pixels, to which the period of the texture is proportional.
      hw: height and width in pixels.
    """
    color, texture, _ = combination
    base = np.array(_RGB[COLORS[color]], np.float32) + rng.normal(0, _COLOR_NOISE, 3)
    # The second color of a texture is darker, or lighter for a dark color.
    other = base * 0.45 if base.mean() > 60 else base + 110
    angle, period = rng.uniform(0, math.pi), radius * rng.uniform(0.4, 0.6)
    y, x = np.mgrid[: hw[0], : hw[1]].astype(np.float32)
    along = (x * math.cos(angle) + y * math.sin(angle)) / period + rng.uniform()
    across = (y * math.cos(angle) - x * math.sin(angle)) / period + rng.uniform()
    pattern = {
        "plain": lambda: np.zeros_like(x),
        "striped": lambda: (along % 1) < 0.45,
        "dotted": lambda: (along % 1 - 0.5) ** 2 + (across % 1 - 0.5) ** 2 < 0.09,
        "checked": lambda: ((along % 1) < 0.5) ^ ((across % 1) < 0.5),
    }[TEXTURES[texture]]()
    weight = pattern.astype(np.float32)[..., None]
    paint = base * (1 - weight) + other * weight + rng.normal(0, 4.0, (*hw, 1))
    return np.clip(paint, 0, 255).astype(np.float32)


def write_phrases(layers: list[Layer], size: int) -> list[str]:
    """Writes the phrases of the objects of a scene, one text per object.

    Args:
      layers: objects with a description (color, texture, shape, size).
      size: side of the scene in pixels.
    """
    described = [_list_descriptions(layer.description) for layer in layers]
    texts = []
    for index, layer in enumerate(layers):
        others = [own for i, own in enumerate(described) if i != index]
        unique = [text for text in described[index] if not any(text in own for own in others)]
        phrases = [f"the {text}" for text in unique]
        # Relations to objects that a phrase of color and shape tells from all others
        shape = SHAPES[layer.description[2]]
        for i, anchor in enumerate(layers):
            name = f"{COLORS[anchor.description[0]]} {SHAPES[anchor.description[2]]}"
            if i == index or sum(name in own for own in described) > 1:
                continue
            for relation in RELATIONS:
                fitting = [
                    j
                    for j, each in enumerate(layers)
                    if j != i
                    and each.description[2] == layer.description[2]
                    and _is_related(each.center, anchor.center, relation, size)
                ]
                if fitting == [index]:
                    phrases.append(f"the {shape} {relation} the {name}")
        texts.append("\n".join(phrases))
    return texts


def _list_descriptions(description: tuple[int, ...]) -> list[str]:
    """Returns what can be said of an object: any of its size, color, texture and shape."""
    color, texture, shape, size = description
    # The description of a combination comes first, without the size
    options = (("", SIZES[size]), (COLORS[color], ""), (TEXTURES[texture], ""))
    found = []
    for words in itertools.product(*options, (SHAPES[shape], "object")):
        text = " ".join(word for word in words if word)
        if text != "object":
            found.append(text)
    return found


def _is_related(center: np.ndarray, anchor: np.ndarray, relation: str, size: int) -> bool:
    """Tells whether a center lies, for example, left of an anchor."""
    dx, dy = ((center - anchor) / size).tolist()
    distance, across = {
        "left of": (-dx, dy),
        "right of": (dx, dy),
        "above": (-dy, dx),
        "below": (dy, dx),
    }[relation]
    return distance > _APART and distance > abs(across)
