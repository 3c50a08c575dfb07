"""Proposes objects that people need not draw (SAM, section 4, semi-automatic stage)."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from segjax.engine.annotations import AnnotationStore, select_current
from segjax.engine.images import ImageFolder
from segjax.engine.model_hash import hash_weights
from segjax.inference.detection.detector import Detector
from segjax.inference.detection.sam_refinement import refine_masks
from segjax.inference.sam.automatic import SamAutomaticMaskGenerator
from segjax.inference.sam.predictor import SamPredictor
from segjax.masks import compute_iou, decode_mask, decode_rle

OVERLAP = 0.5  # a proposal with more IoU with an object that is there is left out
STAGE = "prefilled"

# image -> (masks bool [N, H, W], scores [N]), the most confident first
Propose = Callable[[np.ndarray], tuple[list[np.ndarray], list[float]]]


@dataclasses.dataclass
class PrefillReport:
    """What was proposed.

    Attributes:
      images: images that were looked at.
      objects: objects that were added.
      overlapping: confident proposals that were left out, because the object is there already.
      done: images that are marked as done, which are left alone.
    """

    images: int = 0
    objects: int = 0
    overlapping: int = 0
    done: int = 0


def propose_by_detector(
    detector: Detector, predictor: SamPredictor, least_score: float = 0.9
) -> Propose:
    """Returns a function that proposes a detector's objects, drawn by a SAM from their boxes.

    Args:
      detector: one class is enough.
      predictor: the SAM.
      least_score: of the detector.
    """

    def propose(image: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
        """Returns masks and scores of the confident detections."""
        found = detector.detect([image])[0]
        kept = np.flatnonzero(found.scores >= least_score)
        if not len(kept):
            return [], []
        found = refine_masks(predictor, image, found)
        return [decode_mask(found.masks[i], *found.hw) for i in kept], found.scores[kept].tolist()

    return propose


def propose_everything(
    predictor: SamPredictor, least_score: float = 0.9, least_stability: float = 0.9
) -> Propose:
    """Returns a function that proposes what segment-everything is sure of. It needs no detector.

    Args:
      predictor: the SAM.
      least_score: lowest predicted IoU.
      least_stability: lowest stability score. Small models reach less than large ones.
    """
    generator = SamAutomaticMaskGenerator(
        predictor.model,
        predictor.variables,
        pred_iou_thresh=least_score,
        stability_score_thresh=least_stability,
        min_mask_region_area=20,
        max_mask_area=0.5,
        percentiles=predictor.percentiles,
    )

    def propose(image: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
        """Returns masks and predicted IoUs, the best first."""
        records = sorted(generator.generate(image), key=lambda row: -row["predicted_iou"])
        return [r["segmentation"] for r in records], [r["predicted_iou"] for r in records]

    return propose


def prefill(
    folder: pathlib.Path,
    propose: Propose,
    predictor: SamPredictor,
    names: list[str] | None = None,
) -> PrefillReport:
    """Adds confident proposals to the images that are not done, as objects that people may edit.

    Args:
      folder: folder of the images.
      propose: see `Propose`.
      predictor: the SAM that draws, for the records.
      names: files to look at. None: all.
    """
    store, report = AnnotationStore(folder), PrefillReport()
    images, model = ImageFolder(folder), hash_weights(predictor.variables)
    for entry in images.list_entries():
        if names is not None and entry.name not in names:
            continue
        content = store.read(entry.name)
        if content["done"]:
            report.done += 1
            continue
        report.images += 1
        # Objects that people have drawn, and those that are proposed on the way
        present = [decode_rle(row["segmentation"]) for row in select_current(content)]
        for mask, score in zip(*propose(images.read(entry, [])), strict=True):
            if not mask.any():
                continue
            if any(compute_iou(mask, other) > OVERLAP for other in present):
                report.overlapping += 1
                continue
            about: dict[str, Any] = {"class": "", "annotator": "", "seconds": 0.0, "steps": []}
            about |= {"stage": STAGE, "predicted_iou": float(score), "model": model}
            store.commit(entry.name, mask, about)
            present.append(mask)
            report.objects += 1
    return report
