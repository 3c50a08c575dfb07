"""Scenes of stick figures with exact keypoints, to train keypoint detection without a download.

The figures replace the shapes of `segjax.data.synthetic.scenes`. They have limbs of textured
strips, a head, and seven joints, of which the hands and feet come in pairs. Figures face the
viewer, so the left hand is on the right of the image. In a mirrored image it is the right hand of
a figure that faces the viewer too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from segjax.data.synthetic.scenes import Difficulty, Layer, SyntheticScenes, add_layer
from segjax.data.synthetic.shapes import fill_polygon

JOINTS = ("head", "neck", "hip", "left_hand", "right_hand", "left_foot", "right_foot")
# Half the width of limbs and trunk, and the radius of the head, in radii of a figure
_LIMB, _TRUNK, _HEAD = 0.075, 0.12, 0.2
# Length of limbs, in radii of a figure
_ARM, _LEG = 0.62, 0.75
# COCO's sigmas of object keypoint similarity for the same joints of people; the head has the nose's
SIGMAS = (0.026, 0.079, 0.107, 0.062, 0.062, 0.089, 0.089)


class FigureScenes(SyntheticScenes):
    """Random-access source of scenes of figures. Its arguments are those of `SyntheticScenes`.

    Records have ``keypoints`` float32 [G, 7, 3] in the order of `JOINTS`. They are exact. The
    visibility is 2, or 1 under another figure. A keypoint outside the image is (0, 0, 0).
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

    def _add_object(
        self, rng: np.random.Generator, canvas: np.ndarray, layers: list[Layer]
    ) -> None:
        radius, center = self._choose_position(rng, layers)
        joints, outlines = sample_figure(rng)
        layer = Layer(
            np.zeros(canvas.shape[:2], bool), 0, 0, center, radius, joints=joints * radius + center
        )
        for outline in outlines:
            part = fill_polygon(outline * radius + center, self.size)
            self._paint(rng, canvas, part.alpha, part.box)
            layer.visible |= part.mask
        layer.area = np.count_nonzero(layer.visible)
        add_layer(layer, layers)

    def _make_record(self, image_id: str, image: np.ndarray, layers: list[Layer]) -> dict:
        record = super()._make_record(image_id, image, layers)
        keypoints = np.zeros((len(layers), len(JOINTS), 3), np.float32)
        for row, layer in enumerate(layers):
            inside = ((layer.joints >= 0) & (layer.joints < image.shape[0])).all(1)
            x, y = layer.joints[inside].astype(int).T
            keypoints[row, inside] = np.column_stack(
                [layer.joints[inside], 1 + layer.visible[y, x]]
            )
        return record | {"objects": record["objects"] | {"keypoints": keypoints}}


def sample_figure(rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Samples a figure of radius 1 around the origin, where y points down.

    Returns:
      A pair of the joints [7, 2], (x, y), and the outlines [V, 2] of limbs, trunk and head in the
      order in which they are painted.
    """
    hip, neck, head = np.array([[0, 0.2], [0, -0.46], [0, -0.74]])
    # Direction at an angle from straight down, outwards
    direction = lambda side, angle: np.array([side * math.sin(angle), math.cos(angle)])
    arms, legs = rng.uniform(0.25, 2.6, 2), rng.uniform(0.1, 0.8, 2)
    ends, limbs = [], []
    for start, reach, length, angles in ((neck, 0.1, _ARM, arms), (hip, 0.07, _LEG, legs)):
        for side, angle in zip((1, -1), angles, strict=True):
            root = start + (side * reach, 0.04)
            ends.append(root + length * direction(side, angle))
            limbs.append(_make_strip(root, ends[-1], _LIMB))
    joints = np.stack([head, neck, hip, *ends])
    outlines = [*limbs, _make_strip(hip, neck, _TRUNK), _make_strip(head, head, _HEAD)]
    tilt = rng.uniform(-0.35, 0.35)
    turn = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    return joints @ turn, [outline @ turn for outline in outlines]


def _make_strip(start: np.ndarray, end: np.ndarray, half_width: float) -> np.ndarray:
    """Returns the outline [16, 2] of a strip with round ends. Without length it is a disc."""
    along = math.atan2(*(end - start)[::-1])
    around = along + np.linspace(math.pi / 2, 3 * math.pi / 2, 8)
    cap = half_width * np.stack([np.cos(around), np.sin(around)], -1)
    return np.concatenate([start + cap, end - cap])
