"""Scenes of things and stuff: shapes on regions of textures, with a class for every pixel."""

import numpy as np

from segjax.data.synthetic.captions import mix_paint
from segjax.data.synthetic.scenes import Difficulty, SyntheticScenes
from segjax.text.words import COLORS, TEXTURES

# Number of regions, and the scale of their textures in sides of a scene
_REGIONS, _SCALE = (2, 4), (0.12, 0.25)


class PanopticScenes(SyntheticScenes):
    """Random-access source of scenes with stuff. Its arguments are those of `SyntheticScenes`.

    The background is divided into regions, the cells of a Voronoi diagram. Each is painted with a
    texture of random color, scale and direction, and its class of stuff is the texture. The records
    have ``stuff``, see `segjax.data.records`. Objects have no parts, so nothing overlaps.
    """

    stuff = TEXTURES
    difficulties = {
        "easy": Difficulty(part_probability=0.0),
        "lone": Difficulty(objects=(1, 1), radius=(0.25, 0.4), part_probability=0.0),
    }

    def _sample_background(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        # Regions
        centers = rng.uniform(0, self.size, (rng.integers(_REGIONS[0], _REGIONS[1] + 1), 2))
        y, x = np.mgrid[: self.size, : self.size] + 0.5
        distances = [(x - center[0]) ** 2 + (y - center[1]) ** 2 for center in centers]
        nearest = np.argmin(distances, axis=0)
        # Neighbors may not have the same class, so the classes are drawn without replacement.
        textures = rng.permutation(len(TEXTURES))[: len(centers)]
        # Paint
        canvas = np.zeros((self.size, self.size, 3), np.float32)
        for region, texture in enumerate(textures.tolist()):
            combination = int(rng.integers(len(COLORS))), texture, 0
            scale = rng.uniform(*_SCALE) * self.size
            paint = mix_paint(rng, combination, scale, canvas.shape[:2])
            canvas[nearest == region] = paint[nearest == region]
        return canvas, (textures[nearest] + 1).astype(np.uint8)
