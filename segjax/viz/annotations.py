"""Draws the annotations of records, and training examples: for people who check their data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from segjax.viz.detection import draw_detections
from segjax.viz.drawing import PALETTE, draw_masks
from segjax.viz.sheets import LARGEST_PANEL, SMALLEST_PANEL, lay_out_panels

CROWD_COLOR = (150, 150, 150)
# With more objects than this, outlines of masks are all that can be seen, so boxes are left out.
MOST_BOXES = 60


def draw_annotations(
    image: np.ndarray,
    objects: Mapping[str, Any],
    names: Sequence[str] = (),
    *,
    side: int | None = None,
) -> np.ndarray:
    """Draws the objects of an image: masks with outlines, boxes, and class names.

    Crowds are gray. Objects without a mask have a box alone. The names of both say so.

    Args:
      image: uint8 [H, W, 3].
      objects: "boxes" [G, 4] (x1 y1 x2 y2 in pixels of the image), and perhaps "masks" bool
        [G, H, W], "labels" int [G], "crowd" bool [G], "has_mask" bool [G] and "keypoints"
        [G, J, 3].
      names: class names.
      side: length of the longer side of the result in pixels. None keeps the image's.

    Returns:
      uint8 [h, w, 3].
    """
    scale = (side or max(image.shape[:2])) / max(image.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    resample = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    pixels = np.asarray(Image.fromarray(image).resize(size, resample))
    count = len(objects["boxes"])
    crowd = np.asarray(objects.get("crowd", np.zeros(count)), bool)
    colors = [
        CROWD_COLOR if is_crowd else PALETTE[index % len(PALETTE)]
        for index, is_crowd in enumerate(crowd)
    ] or list(PALETTE)
    if objects.get("masks") is not None and count:
        masks = np.array([_resize_mask(mask, size) for mask in objects["masks"]])
        line = max(1, round(max(size) / 300))
        pixels = draw_masks(pixels, masks, colors, opacity=0.35, outline=line)
        if count > MOST_BOXES:
            return pixels
    labels, classes = _name_objects(objects, count, names)
    return draw_detections(
        pixels,
        objects["boxes"],
        labels=labels,
        names=classes,
        keypoints=objects.get("keypoints"),
        colors=colors,
        scale=scale,
    )


def draw_annotation_sheet(
    images: Sequence[np.ndarray],
    objects: Sequence[Mapping[str, Any]],
    captions: Sequence[str],
    names: Sequence[str] = (),
    *,
    title: str = "",
) -> np.ndarray:
    """Draws images with their annotations on one sheet, about as wide as it is high.

    Args:
      images: K images, uint8 [H, W, 3] of any sizes.
      objects: of each image, see `draw_annotations`.
      captions: line below each image.
      names: class names.
      title: above the sheet.

    Returns:
      uint8 [H, W, 3]. Small images are enlarged.
    """
    columns = max(1, math.ceil(math.sqrt(len(images))))
    longest = max(max(image.shape[:2]) for image in images)
    side = int(np.clip(longest, SMALLEST_PANEL, LARGEST_PANEL))
    panels = [
        (Image.fromarray(draw_annotations(image, each, names, side=side)), caption)
        for image, each, caption in zip(images, objects, captions, strict=True)
    ]
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return lay_out_panels(rows, [title] + [""] * (columns - 1), side)


def _name_objects(
    objects: Mapping[str, Any], count: int, names: Sequence[str]
) -> tuple[list[int] | None, list[str]]:
    """Returns the label of each object and the names of the labels, None if names say nothing."""
    crowd = np.resize(objects.get("crowd", False), count)
    has_mask = np.resize(objects.get("has_mask", True), count)
    texts = [
        ", crowd" if crowd[row] else "" if has_mask[row] else ", no mask" for row in range(count)
    ]
    labels = objects.get("labels")
    if labels is None and not any(texts):
        return None, []
    get_name = lambda label: names[label] if 0 <= label < len(names) else str(label)
    given = ["object"] * count if labels is None else [get_name(int(label)) for label in labels]
    return list(range(count)), [name + text for name, text in zip(given, texts, strict=True)]


def objects_of_example(example: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the objects of a training example, as `draw_annotations` expects them.

    Args:
      example: of promptable segmentation or of detection. Other examples have no objects.
    """
    if "boxes" not in example:
        return {"boxes": np.zeros((0, 4))}
    valid = np.flatnonzero(example["valid"])
    boxes = example["boxes"][valid]
    objects: dict[str, Any] = {"boxes": boxes}
    for name, field in (("labels", "categories"), ("crowd", "crowd"), ("keypoints", "keypoints")):
        if field in example:
            objects[name] = example[field][valid]
    if "masks" in example:
        canvas = example["image"].shape[:2]
        known = example.get("has_mask", example["valid"])[valid]
        masks = example["masks"][valid]
        if "categories" in example:
            # Masks of detectors fill their boxes.
            masks = [_paste(*row, canvas) for row in zip(masks, boxes, known, strict=True)]
        objects["masks"], objects["has_mask"] = list(masks), known
    return objects


def _paste(cells: np.ndarray, box: np.ndarray, known: bool, canvas: tuple[int, int]) -> np.ndarray:
    """Returns the mask bool [*canvas] of cells [S, S] that fill a box, empty if not `known`."""
    mask = np.zeros(canvas, bool)
    x1, y1 = np.clip(np.round(box[:2]).astype(int), 0, np.array(canvas[::-1]) - 1)
    x2, y2 = np.clip(np.round(box[2:]).astype(int), [x1 + 1, y1 + 1], canvas[::-1])
    if known:
        mask[y1:y2, x1:x2] = _resize_mask(cells, (x2 - x1, y2 - y1))
    return mask


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a mask to `size` = (width, height)."""
    gray = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 255)
    return np.asarray(gray.resize(size, Image.Resampling.BILINEAR)) > 127
