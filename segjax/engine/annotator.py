"""Simulated annotator: the ground truth plays the person, so that a data engine can be measured."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from segjax.engine.annotations import AnnotationStore, select_current
from segjax.engine.images import ImageEntry, ImageFolder
from segjax.engine.model_hash import hash_weights
from segjax.engine.prefill import STAGE
from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import compute_iou, decode_rle

GOOD = 0.85  # IoU at which a person stops
MOST_CLICKS = 10
# A documented choice: seconds to find an object, per click, and to look at a proposal
SECONDS = {"object": 3.0, "click": 1.2, "look": 1.0}


@dataclasses.dataclass
class Effort:
    """What the annotator did.

    Attributes:
      objects: objects that were drawn by clicks.
      accepted: proposals that were good enough.
      removed: proposals that were no object.
      clicks: clicks in total.
      good: drawn objects that reached an IoU of `GOOD`.
      seconds: time by the costs of `SECONDS`.
    """

    objects: int = 0
    accepted: int = 0
    removed: int = 0
    clicks: int = 0
    good: int = 0
    seconds: float = 0.0


class SimulatedAnnotator:
    """Annotates images of a folder by clicks, as the interactive evaluation does.

    The first click is the pixel deepest inside the object, each further one the pixel deepest
    inside the larger error region, until the IoU is 0.85 or after 10 clicks.

    Args:
      folder: folder of the images.
      predictor: the SAM. Its image is replaced.
    """

    def __init__(self, folder: pathlib.Path, predictor: SamPredictor) -> None:
        self.images, self.store = ImageFolder(folder), AnnotationStore(folder)
        self.predictor, self.model = predictor, hash_weights(predictor.variables)

    def annotate(self, entry: ImageEntry, truth: np.ndarray, effort: Effort) -> None:
        """Looks at the proposals of an image, draws what is missing, and marks it as done.

        Args:
          entry: the image.
          truth: bool [G, H, W], its objects.
          effort: receives what was done.
        """
        missing = self._review(entry, list(truth), effort)
        self.predictor.set_image(self.images.read(entry, []))
        for mask in missing:
            drawn, steps, score = self.draw(mask)
            clicks = len(steps[-1]["points"])
            seconds = SECONDS["object"] + SECONDS["click"] * clicks
            effort.objects += 1
            effort.clicks += clicks
            effort.seconds += seconds
            effort.good += int(compute_iou(drawn, mask) >= GOOD)
            if drawn.any():
                about: dict[str, Any] = {"class": "", "annotator": "simulated", "stage": "manual"}
                about |= {"seconds": seconds, "steps": steps, "model": self.model}
                self.store.commit(entry.name, drawn, about | {"predicted_iou": score})
        self.store.set_done(entry.name, True)

    def _review(
        self, entry: ImageEntry, missing: list[np.ndarray], effort: Effort
    ) -> list[np.ndarray]:
        """Accepts proposals that are good, removes the others, and returns the missing objects."""
        for row in select_current(self.store.read(entry.name)):
            if row["stage"] != STAGE:
                continue
            effort.seconds += SECONDS["look"]
            proposal = decode_rle(row["segmentation"])
            ious = [compute_iou(proposal, mask) for mask in missing]
            if ious and max(ious) >= GOOD:
                missing.pop(int(np.argmax(ious)))
                effort.accepted += 1
            else:
                about = {"class": "", "annotator": "simulated", "stage": "manual"}
                about |= {"model": self.model, "steps": []}
                self.store.commit(entry.name, None, about, parent=row["id"])
                effort.removed += 1
        return missing

    def draw(self, truth: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]], float]:
        """Draws one object of the predictor's image by clicks.

        Args:
          truth: bool [H, W], not empty.

        Returns:
          The mask, the steps as the page stores them, and the predicted IoU.
        """
        points: list[list[float]] = []
        steps: list[dict[str, Any]] = []
        mask, low_res, score = np.zeros_like(truth), None, 0.0
        for number in range(MOST_CLICKS):
            # The deepest pixel of the larger error region
            missed, wrong = truth & ~mask, mask & ~truth
            clicks = [_find_deepest(missed), _find_deepest(wrong)]
            label = int(clicks[0][1] >= clicks[1][1])
            points.append([*clicks[1 - label][0], label])
            masks, iou, logits = self.predictor.predict(
                np.array([point[:2] for point in points]),
                np.array([point[2] for point in points]),
                mask_input=low_res,
                multimask_output=number == 0,
            )
            # Keep the most confident mask, and feed it back
            best = int(np.argmax(iou))
            mask, low_res, score = masks[best], logits[best][None], float(iou[best])
            points = [list(point) for point in points]
            steps.append({"points": points, "box": None, "text": None, "choice": best})
            if compute_iou(mask, truth) >= GOOD:
                break
        return mask, steps, score


def _find_deepest(region: np.ndarray) -> tuple[tuple[float, float], float]:
    """Returns the pixel (x, y) that is deepest inside of a region, and its depth."""
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return (float(x), float(y)), float(depth[y, x])
