"""Shows an image with masks and prompts: one call for notebooks and quick looks."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from segjax.masks import decode_rle
from segjax.viz.detection import draw_detections
from segjax.viz.drawing import draw_masks
from segjax.viz.predictions import draw_predictions

_PROMPT_KEYS = {"point_coords", "point_labels", "box", "boxes"}


def show(
    image: np.ndarray,
    masks: Any = None,
    prompts: Mapping[str, Any] | None = None,
    *,
    names: Sequence[str] = (),
    save: str | os.PathLike | None = None,
) -> Image.Image:
    """Draws masks and prompts on an image and returns it. A notebook displays the result.

    Example:
      >>> image = np.zeros((40, 60, 3), np.uint8)
      >>> masks = np.ones((1, 40, 60), bool)
      >>> show(image, masks, {"point_coords": [[30, 20]], "point_labels": [1]}).size
      (60, 40)

    Args:
      image: uint8 [H, W, 3], RGB.
      masks: what a segjax call returns: bool [H, W] or [M, H, W] of a predictor, the records of
        `SamAutomaticMaskGenerator.generate`, or one result of a `Detector`. None draws no masks.
      prompts: keyword arguments of `SamPredictor.predict` or `predict_batch` that led to the masks:
        "point_coords" [N, 2] or [P, N, 2], "point_labels" [N] or [P, N], "box" [4] or "boxes"
        [P, 4]. Only the first mask is drawn for each object, so pass the best one first.
      names: class names, for the result of a detector.
      save: file to write as well, such as "overlay.png".

    Returns:
      The image, as Pillow's.

    Raises:
      ValueError: Masks or prompts of another form, or that do not fit the image.
    """
    if isinstance(masks, Mapping):
        pixels = _draw_detections(image, masks, names)
    elif prompts is not None:
        objects = _group_prompts(prompts)
        shape = (len(objects), *image.shape[:2])
        chosen = np.zeros(shape, bool) if masks is None else _read_masks(masks, image)
        if len(objects) == 1:
            chosen = chosen[:1]
        pixels = draw_predictions(image, chosen, objects)
    elif masks is None:
        pixels = image
    else:
        pixels = draw_masks(image, _read_masks(masks, image))
    shown = Image.fromarray(pixels)
    if save is not None:
        pathlib.Path(save).parent.mkdir(parents=True, exist_ok=True)
        shown.save(save)
    return shown


def _draw_detections(
    image: np.ndarray, result: Mapping[str, Any], names: Sequence[str]
) -> np.ndarray:
    if "boxes" not in result:
        raise ValueError(f"masks is a dict with {sorted(result)}; a detector's result has 'boxes'")
    masks = result.get("masks")
    labels = result.get("labels")
    return draw_detections(
        image,
        result["boxes"],
        masks=None if masks is None else _read_masks(masks, image),
        labels=None if labels is None else np.asarray(labels) - 1,
        scores=result.get("scores"),
        names=names,
    )


def _read_masks(masks: Any, image: np.ndarray) -> np.ndarray:
    """Returns masks bool [M, H, W] of arrays, run lengths or records."""
    if isinstance(masks, list | tuple) and masks and isinstance(masks[0], Mapping):
        masks = [record.get("segmentation", record) for record in masks]
        masks = [decode_rle(mask) if isinstance(mask, Mapping) else mask for mask in masks]
    masks = np.asarray(masks)
    if masks.size == 0:
        masks = np.zeros((0, *image.shape[:2]), bool)
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(
            f"masks of shape {masks.shape} do not fit an image {image.shape}; expected [H, W], "
            "[M, H, W], records of the mask generator, or a result of the detector"
        )
    return masks > 0


def _group_prompts(prompts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one dict per object, as `draw_predictions` takes them."""
    if unknown := set(prompts) - _PROMPT_KEYS:
        raise ValueError(
            f"prompts has {sorted(unknown)}; it takes {', '.join(sorted(_PROMPT_KEYS))}"
        )
    points, labels = prompts.get("point_coords"), prompts.get("point_labels")
    boxes = prompts.get("boxes", prompts.get("box"))
    boxes = None if boxes is None else np.asarray(boxes, float).reshape(-1, 4)
    if points is not None:
        points = np.asarray(points, float)
        points = points[None] if points.ndim == 2 else points
        shape = points.shape[:2]
        labels = np.ones(shape, int) if labels is None else np.asarray(labels).reshape(shape)
    count = len(points) if points is not None else len(boxes) if boxes is not None else 0
    if boxes is not None and len(boxes) != count:
        raise ValueError(f"{len(boxes)} boxes beside the points of {count} objects")
    return [
        {
            "points": [] if points is None else points[index].tolist(),
            "labels": [] if points is None else labels[index].tolist(),
            "box": None if boxes is None else boxes[index].tolist(),
        }
        for index in range(count)
    ]
