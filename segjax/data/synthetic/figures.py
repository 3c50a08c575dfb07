"""Scenes of stick figures with exact joints: what keypoints are learnt from where nothing was downloaded.

The scenes of `synthetic`, with figures for shapes: limbs of textured strips, a head, and seven joints of which the
hands and feet come in pairs. Figures face the viewer, so their left hand is on the picture's right; in a mirror it is
the right hand of a figure that faces the viewer too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from segjax.data.synthetic.scenes import Difficulty, Layer, SyntheticScenes, add_layer
from segjax.data.synthetic.shapes import fill_polygon

JOINTS = ("head", "neck", "hip", "left_hand", "right_hand", "left_foot", "right_foot")
# Half of a limb's width, the head's radius, and where limbs are fixed, in radii of a figure.
_LIMB, _TRUNK, _HEAD = 0.075, 0.12, 0.2
_ARM, _LEG = 0.62, 0.75
# How far off annotators of people are at the like joints, for `evaluate_coco` (COCO's constants; a head's: the nose's).
SIGMAS = (0.026, 0.079, 0.107, 0.062, 0.062, 0.089, 0.089)


class FigureScenes(SyntheticScenes):
    """A random-access source of scenes of figures; arguments as `SyntheticScenes`.

    Records have ``keypoints`` float32 [G, 7, 3] in the order of `JOINTS`: exact, and visible (2) unless another figure
    lies over them (1); (0, 0, 0) where they lie outside the picture.
    """

    categories, category_ids = ("figure",), (0,)
    keypoint_names, keypoint_sigmas = JOINTS, SIGMAS
    difficulties: Mapping[str, Difficulty] = {
        "easy": Difficulty(objects=(1, 3), radius=(0.22, 0.4)),
        "lone": Difficulty(objects=(1, 1), radius=(0.3, 0.45)),
        "medium": Difficulty(
            objects=(1, 5),
            radius=(0.16, 0.4),
            position_attempts=1,
            texture=(14.0, 36.0),
            color_attempts=2,
            chroma=True,
        ),
    }

    def _add_object(self, rng: np.random.Generator, canvas: np.ndarray, drawn: list[Layer]) -> None:
        radius, centre = self._place(rng, drawn)
        joints, outlines = sample_figure(rng)
        layer = Layer(
            np.zeros(canvas.shape[:2], bool), 0, 0, centre, radius, joints=joints * radius + centre
        )
        for outline in outlines:
            part = fill_polygon(outline * radius + centre, self.size)
            self._paint(rng, canvas, part.alpha, part.box)
            layer.visible |= part.mask
        layer.area = np.count_nonzero(layer.visible)
        add_layer(layer, drawn)

    def _record(self, image_id: str, image: np.ndarray, kept: list[Layer]) -> dict:
        record = super()._record(image_id, image, kept)
        keypoints = np.zeros((len(kept), len(JOINTS), 3), np.float32)
        for row, layer in enumerate(kept):
            inside = ((layer.joints >= 0) & (layer.joints < image.shape[0])).all(1)
            x, y = layer.joints[inside].astype(int).T
            keypoints[row, inside] = np.column_stack(
                [layer.joints[inside], 1 + layer.visible[y, x]]
            )
        return record | {"objects": record["objects"] | {"keypoints": keypoints}}


def sample_figure(rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """A figure of radius 1 around the origin: joints [7, 2] (x, y; y points down), and the outlines [V, 2] of its
    limbs, trunk and head in the order in which they are painted."""
    hip, neck, head = np.array([[0, 0.2], [0, -0.46], [0, -0.74]])
    towards = lambda side, angle: np.array(
        [side * math.sin(angle), math.cos(angle)]
    )  # from straight down, outwards
    arms, legs = rng.uniform(0.25, 2.6, 2), rng.uniform(0.1, 0.8, 2)
    ends, limbs = [], []
    for start, reach, length, angles in ((neck, 0.1, _ARM, arms), (hip, 0.07, _LEG, legs)):
        for side, angle in zip((1, -1), angles, strict=True):
            fixed = start + (side * reach, 0.04)
            ends.append(fixed + length * towards(side, angle))
            limbs.append(_strip(fixed, ends[-1], _LIMB))
    joints = np.stack([head, neck, hip, *ends])
    outlines = [*limbs, _strip(hip, neck, _TRUNK), _strip(head, head, _HEAD)]
    tilt = rng.uniform(-0.35, 0.35)
    turn = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    return joints @ turn, [outline @ turn for outline in outlines]


def _strip(start: np.ndarray, end: np.ndarray, half_width: float) -> np.ndarray:
    """Outline [16, 2] of a strip with round ends; a disc where it has no length."""
    along = math.atan2(*(end - start)[::-1])
    around = along + np.linspace(math.pi / 2, 3 * math.pi / 2, 8)
    cap = half_width * np.stack([np.cos(around), np.sin(around)], -1)
    return np.concatenate([start + cap, end - cap])


KINDS: dict[str, type[SyntheticScenes]] = {"shapes": SyntheticScenes, "figures": FigureScenes}


def get_scene_class(kind: str) -> type[SyntheticScenes]:
    """The source of synthetic scenes of a kind. Raises ValueError for an unknown one."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r} of synthetic scenes; there are {', '.join(KINDS)}")
    return KINDS[kind]
