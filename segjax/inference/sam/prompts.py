"""What a user passes as prompts, checked, moved onto the model's canvas, and padded to a few sizes.

Padding makes one compiled program serve many counts of prompts and points: empty slots change no result.
"""

import bisect
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.images.transforms import scale_boxes, scale_points
from segjax.models.sam.prompt_encoder import NOT_A_POINT, PADDING, Prompts

POINT_COUNTS = (1, 4, 16, 64)
PROMPT_COUNTS = (1, 4, 16, 64)
USER_LABELS = (0, 1, -1)  # as in segment-anything: background, foreground, "not a point"
NAMES = ("point_coords", "point_labels", "boxes", "mask_input")


@dataclasses.dataclass(frozen=True)
class Asked:
    """Prompts on one picture, checked. What is given is given for each of them; what is not is None.

    Attributes:
      count: P, how many. points: float32 [P, N, 2], (x, y); labels: int32 [P, N], as users give them.
      boxes: float32 [P, 4]. masks: float32 [P, 4h, 4w].
    """

    count: int
    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None

    def scaled(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> "Asked":
        """The same on a picture of size `to_hw`, on which it was `from_hw`."""
        points = None if self.points is None else scale_points(self.points, from_hw, to_hw)
        boxes = None if self.boxes is None else scale_boxes(self.boxes, from_hw, to_hw)
        return dataclasses.replace(self, points=points, boxes=boxes)

    def part(self, start: int, count: int) -> "Asked":
        """At most `count` of them from the place `start` on."""
        parts = {name: getattr(self, name) for name in ("points", "labels", "boxes", "masks")}
        kept = {
            name: value[start : start + count] for name, value in parts.items() if value is not None
        }
        return Asked(min(count, self.count - start), **kept)


def padded_count(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest of `sizes` that holds `count`; beyond the last, its multiples."""
    place = bisect.bisect_left(sizes, count)
    return sizes[place] if place < len(sizes) else -(-count // sizes[-1]) * sizes[-1]


def check_prompts(
    point_coords: Any = None,
    point_labels: Any = None,
    boxes: Any = None,
    mask_input: Any = None,
    *,
    hw: tuple[int, int],
    cells: tuple[int, int],
) -> Asked:
    """Any mix of points, boxes and masks in pixels of a picture of size `hw`; cells: (4h, 4w) of the mask grid.

    Nothing at all is one prompt, without anything. Arrays of no row are no prompt.

    Raises ValueError that says what was given (of several prompts, which) and what was expected.
    """
    parts: list[np.ndarray | None] = [None, None, None, None]
    if point_coords is not None or point_labels is not None:
        parts[:2] = check_points(point_coords, point_labels, hw)
    if boxes is not None:
        parts[2] = check_boxes(boxes, hw)
    if mask_input is not None:
        parts[3] = check_masks(mask_input, cells)
    counts = {len(part) for part in parts if part is not None}
    if len(counts) > 1:
        given = ", ".join(
            f"{len(part)} {name}"
            for name, part in zip(NAMES, parts, strict=True)
            if part is not None
        )
        raise ValueError(f"{given}: expected as many of each, one a prompt")
    return Asked(counts.pop() if counts else 1, *parts)


def check_points(coords: Any, labels: Any, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Points float32 [P, N, 2] and labels int32 [P, N]; see `check_prompts`."""
    if coords is None or labels is None:
        given, absent = (
            ("point_labels", "point_coords") if coords is None else ("point_coords", "point_labels")
        )
        raise ValueError(f"{given} came without {absent}; points need both: [.., N, 2] and [.., N]")
    coords, labels = _numbers(coords, "point_coords"), _numbers(labels, "point_labels")
    if coords.ndim != 3 or coords.shape[-1] != 2:
        raise ValueError(
            f"point_coords has shape {coords.shape}; expected [P, N, 2], (x, y) of N points a prompt"
        )
    if labels.shape != coords.shape[:2]:
        raise ValueError(
            f"point_labels has shape {labels.shape} and point_coords {coords.shape}; expected one label a point, "
            f"{coords.shape[:2]}"
        )
    unknown = ~np.isin(labels, USER_LABELS)
    if unknown.any():
        raise ValueError(
            f"{_where(unknown)}point label {labels[unknown][0]:g}; expected 1 (on the object), 0 (off it) or -1 (no "
            "point)"
        )
    height, width = hw
    x, y = coords[..., 0], coords[..., 1]
    outside = (labels >= 0) & ~((x >= -0.5) & (x < width) & (y >= -0.5) & (y < height))
    if outside.any():
        point = coords[outside][0]
        raise ValueError(
            f"{_where(outside)}point ({point[0]:g}, {point[1]:g}) is outside the image of width {width} and height "
            f"{height}; points are (x, y) in pixels of the image, x first"
        )
    return coords.astype(np.float32), labels.astype(np.int32)


def check_boxes(boxes: Any, hw: tuple[int, int]) -> np.ndarray:
    """Boxes float32 [P, 4], x1 y1 x2 y2; see `check_prompts`. They may reach over the picture's edges."""
    boxes = _numbers(boxes, "box")
    if boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes have shape {boxes.shape}; expected [P, 4], x1 y1 x2 y2 in pixels")
    height, width = hw
    x1, y1, x2, y2 = boxes.T
    for bad, why in (
        (~((x1 < x2) & (y1 < y2)), "expected x1 < x2 and y1 < y2 (corners, not x y width height)"),
        (
            (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height),
            f"outside the image of {width} x {height} pixels",
        ),
    ):
        if bad.any():
            raise ValueError(f"{_where(bad)}box {boxes[bad][0].tolist()}: {why}")
    return boxes.astype(np.float32)


def check_masks(masks: Any, cells: tuple[int, int]) -> np.ndarray:
    """Mask prompts float32 [P, 4h, 4w], logits on the mask grid; see `check_prompts`."""
    masks = _numbers(masks, "mask_input")
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3 or masks.shape[1:] != cells:
        raise ValueError(
            f"mask_input has shape {masks.shape}; expected [1, {cells[0]}, {cells[1]}] a prompt: logits on the mask "
            "grid, such as one of `low_res` of an earlier prediction"
        )
    return masks.astype(np.float32)


def point_slots(asked: Sequence[Asked]) -> int:
    """Slots for points that hold those of every prompt, a padded count."""
    return padded_count(
        max((a.points.shape[1] for a in asked if a.points is not None), default=0), POINT_COUNTS
    )


def stacked(
    rows: Sequence[Asked], shape: tuple[int, int], slots: int, cells: tuple[int, int] | None = None
) -> Prompts:
    """Prompts of several pictures as one array each, with empty slots where there are none.

    Args:
      rows: on the canvas. shape: (R, P), at least as many as there are rows and prompts in any.
      slots: for points. cells: (4h, 4w) of the mask grid, where any prompt of the call has a mask, else None.

    Returns:
      `Prompts` with leading axes [R, P], as NumPy arrays.
    """
    points, labels = (
        np.zeros((*shape, slots, 2), np.float32),
        np.full((*shape, slots), PADDING, np.int32),
    )
    boxes, has_box = np.zeros((*shape, 4), np.float32), np.zeros(shape, bool)
    masks = None if cells is None else np.zeros((*shape, *cells), np.float32)
    has_mask = None if cells is None else np.zeros(shape, bool)
    for row, asked in enumerate(rows):
        own = row, slice(asked.count)
        if asked.points is not None:
            number = asked.points.shape[1]
            points[*own, :number] = asked.points
            labels[*own, :number] = np.where(asked.labels == -1, NOT_A_POINT, asked.labels)
        if asked.boxes is not None:
            boxes[own], has_box[own] = asked.boxes, True
        if asked.masks is not None:
            masks[own], has_mask[own] = asked.masks, True
    return Prompts(
        points=points, labels=labels, boxes=boxes, has_box=has_box, masks=masks, has_mask=has_mask
    )


def _where(bad: np.ndarray) -> str:
    """Which of several prompts is the first bad one: bool [P, ..] -> "prompt 3: "."""
    return f"prompt {np.argwhere(bad)[0][0]}: " if len(bad) > 1 else ""


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is ragged ({error}); fill up with points of label -1") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} holds {array.dtype}; expected numbers")
    if array.size == 0 and (array.ndim < 2 or len(array)):
        raise ValueError(f"{name} is empty (shape {array.shape}); leave it out instead")
    bad = ~np.isfinite(array)
    if bad.any():
        where = _where(bad) if array.ndim > 1 else ""
        raise ValueError(
            f"{where}{name} holds NaN or infinity: {array[bad][0]}; expected finite numbers"
        )
    return array.astype(np.float64)
