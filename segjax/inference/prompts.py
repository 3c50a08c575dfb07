"""What a user passes as a prompt, checked, moved onto the model's canvas, and padded to a few sizes.

Padding makes one compiled program serve many counts of prompts and points: empty slots change no result.
"""

import bisect
from typing import Any

import numpy as np

from segjax.data.transforms import scale_boxes, scale_points
from segjax.models.sam.prompt_encoder import NOT_A_POINT, PADDING

POINT_COUNTS = (1, 4, 16, 64)
PROMPT_COUNTS = (1, 4, 16, 64)
USER_LABELS = (0, 1, -1)  # as in segment-anything: background, foreground, "not a point"


def padded_count(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` that holds `count`; beyond the last, its multiples."""
    place = bisect.bisect_left(sizes, count)
    return sizes[place] if place < len(sizes) else -(-count // sizes[-1]) * sizes[-1]


def check_points(coords: Any, labels: Any, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points float32 [P, N, 2] and labels int32 [P, N] of a batch of prompts, in pixels of an image of `hw`.

    Raises ValueError that says what was given and what was expected.
    """
    if coords is None or labels is None:
        given, absent = ("point_labels", "point_coords") if coords is None else ("point_coords", "point_labels")
        raise ValueError(f"{given} came without {absent}; points need both: [.., N, 2] and [.., N]")
    coords, labels = _numbers(coords, "point_coords"), _numbers(labels, "point_labels")
    if coords.ndim != 3 or coords.shape[-1] != 2:
        raise ValueError(f"point_coords has shape {coords.shape}; expected [P, N, 2], (x, y) of N points a prompt")
    if labels.shape != coords.shape[:2]:
        raise ValueError(
            f"point_labels has shape {labels.shape} and point_coords {coords.shape}; expected one label a point, "
            f"{coords.shape[:2]}"
        )
    unknown = labels[~np.isin(labels, USER_LABELS)]
    if unknown.size:
        raise ValueError(f"point label {unknown[0]:g}; expected 1 (on the object), 0 (off it) or -1 (no point)")
    height, width = hw
    x, y = coords[..., 0], coords[..., 1]
    outside = (labels >= 0) & ~((x >= -0.5) & (x < width) & (y >= -0.5) & (y < height))
    if outside.any():
        point = coords[outside][0]
        raise ValueError(
            f"point ({point[0]:g}, {point[1]:g}) is outside the image of width {width} and height {height}; points are "
            "(x, y) in pixels of the original image, x first"
        )
    return coords.astype(np.float32), labels.astype(np.int32)


def check_boxes(boxes: Any, hw: tuple[int, int]) -> np.ndarray:
    """Boxes float32 [P, 4], x1 y1 x2 y2 in pixels of an image of `hw`. They may reach over its edges.

    Raises ValueError that says what was given and what was expected.
    """
    boxes = _numbers(boxes, "box")
    if boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes have shape {boxes.shape}; expected [P, 4], x1 y1 x2 y2 in pixels")
    height, width = hw
    x1, y1, x2, y2 = boxes.T
    for bad, why in (
        (~((x1 < x2) & (y1 < y2)), "expected x1 < x2 and y1 < y2 (corners, not x y width height)"),
        ((x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height), f"outside the image of {width} x {height} pixels"),
    ):
        if bad.any():
            raise ValueError(f"box {boxes[bad][0].tolist()}: {why}")
    return boxes.astype(np.float32)


def check_masks(masks: Any, cells: tuple[int, int]) -> np.ndarray:
    """Mask prompts float32 [P, 4h, 4w]: logits on the mask grid. Raises ValueError for another shape."""
    masks = _numbers(masks, "mask_input")
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3 or masks.shape[1:] != cells:
        raise ValueError(
            f"mask_input has shape {masks.shape}; expected [1, {cells[0]}, {cells[1]}] a prompt: logits on the mask "
            "grid, such as one of `low_res` of an earlier prediction"
        )
    return masks.astype(np.float32)


def prompt_arrays(
    points: np.ndarray | None,
    labels: np.ndarray | None,
    boxes: np.ndarray | None,
    masks: np.ndarray | None,
    *,
    from_hw: tuple[int, int],
    to_hw: tuple[int, int],
) -> dict[str, np.ndarray | None]:
    """The fields of `Prompts` for one image: leading axes [1, P'], P' and N' padded, coordinates on the canvas.

    Args:
      points, labels, boxes, masks: checked, or None; those that are there agree in P.
      from_hw: size of the original image; to_hw: of its content on the canvas.
    """
    count = next((len(part) for part in (points, boxes, masks) if part is not None), 1)
    prompts = padded_count(count, PROMPT_COUNTS)
    slots = padded_count(0 if points is None else points.shape[1], POINT_COUNTS)
    arrays = {
        "points": np.zeros((1, prompts, slots, 2), np.float32),
        "labels": np.full((1, prompts, slots), PADDING, np.int32),
        "boxes": np.zeros((1, prompts, 4), np.float32),
        "has_box": np.zeros((1, prompts), bool),
        "masks": None,
    }
    if points is not None:
        arrays["points"][0, :count, : points.shape[1]] = scale_points(points, from_hw, to_hw)
        arrays["labels"][0, :count, : points.shape[1]] = np.where(labels == -1, NOT_A_POINT, labels)
    if boxes is not None:
        arrays["boxes"][0, :count] = scale_boxes(boxes, from_hw, to_hw)
        arrays["has_box"][0, :count] = True
    if masks is not None:
        arrays["masks"] = np.zeros((1, prompts, *masks.shape[1:]), np.float32)
        arrays["masks"][0, :count] = masks
    return arrays


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is ragged ({error}); fill up with points of label -1") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} holds {array.dtype}; expected numbers")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); leave it out instead")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity: {array[~np.isfinite(array)][0]}; expected finite numbers")
    return array.astype(np.float64)
