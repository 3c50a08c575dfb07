"""Prompts from users: checked, moved to the model's canvas, and padded to a few sizes.

Padding lets one compiled program serve many counts of prompts and points. Empty slots are masked
out and change no result.
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
PROMPT_NAMES = ("point_coords", "point_labels", "boxes", "mask_input")


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """P checked prompts on one image. A kind is given for every prompt, or is None.

    Attributes:
      count: P, the number of prompts.
      points: float32 [P, N, 2], (x, y) in pixels.
      labels: int32 [P, N], one of `USER_LABELS`.
      boxes: float32 [P, 4], x1 y1 x2 y2 in pixels.
      masks: float32 [P, 4h, 4w], logits on the mask grid.
    """

    count: int
    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None

    def scale(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> "PromptSet":
        """Returns the prompts for the same image at another size.

        Args:
          from_hw: (height, width) of the image that the prompts refer to.
          to_hw: (height, width) of the resized image.
        """
        points = None if self.points is None else scale_points(self.points, from_hw, to_hw)
        boxes = None if self.boxes is None else scale_boxes(self.boxes, from_hw, to_hw)
        return dataclasses.replace(self, points=points, boxes=boxes)

    def select(self, start: int, count: int) -> "PromptSet":
        """Returns at most `count` of the prompts, from index `start` on."""
        parts = {name: getattr(self, name) for name in ("points", "labels", "boxes", "masks")}
        selected = {
            name: value[start : start + count] for name, value in parts.items() if value is not None
        }
        return PromptSet(min(count, self.count - start), **selected)


def round_up_count(count: int, sizes: tuple[int, ...]) -> int:
    """Returns the smallest of `sizes` that is at least `count`, or a multiple of the last.

    Args:
      count: The number to round up.
      sizes: Allowed numbers, ascending.
    """
    index = bisect.bisect_left(sizes, count)
    return sizes[index] if index < len(sizes) else -(-count // sizes[-1]) * sizes[-1]


def check_prompts(
    point_coords: Any = None,
    point_labels: Any = None,
    boxes: Any = None,
    mask_input: Any = None,
    *,
    hw: tuple[int, int],
    cells: tuple[int, int],
) -> PromptSet:
    """Checks a user's prompts on one image.

    Any mix of points, boxes and masks is allowed. Arrays without rows give no prompts. With no
    argument at all there is one prompt, which is empty.

    Args:
      point_coords: [P, N, 2], (x, y) in pixels of the image.
      point_labels: [P, N], one of `USER_LABELS`.
      boxes: [P, 4], x1 y1 x2 y2 in pixels of the image.
      mask_input: [P, 1, 4h, 4w] or [P, 4h, 4w], logits.
      hw: (height, width) of the image.
      cells: (4h, 4w), size of the mask grid.

    Raises:
      ValueError: The prompts are invalid. The message says what was given, which prompt it is, and
        what was expected.
    """
    # Check each kind alone, then that all kinds have the same number of prompts.
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
            for name, part in zip(PROMPT_NAMES, parts, strict=True)
            if part is not None
        )
        raise ValueError(f"{given}: expected the same number of each, one per prompt")
    return PromptSet(counts.pop() if counts else 1, *parts)


def check_points(coords: Any, labels: Any, hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Checks points and their labels, see `check_prompts`.

    Args:
      coords: [P, N, 2], (x, y) in pixels of the image.
      labels: [P, N].
      hw: (height, width) of the image.

    Returns:
      Coordinates float32 [P, N, 2] and labels int32 [P, N].
    """
    if coords is None or labels is None:
        given, missing = (
            ("point_labels", "point_coords") if coords is None else ("point_coords", "point_labels")
        )
        raise ValueError(
            f"{given} was given without {missing}; points need both: [.., N, 2] and [.., N]"
        )
    coords, labels = _to_numbers(coords, "point_coords"), _to_numbers(labels, "point_labels")
    if coords.ndim != 3 or coords.shape[-1] != 2:
        raise ValueError(
            f"point_coords has shape {coords.shape}; expected [P, N, 2], (x, y) of N points per "
            "prompt"
        )
    if labels.shape != coords.shape[:2]:
        raise ValueError(
            f"point_labels has shape {labels.shape} and point_coords {coords.shape}; expected one "
            f"label per point, {coords.shape[:2]}"
        )
    unknown = ~np.isin(labels, USER_LABELS)
    if unknown.any():
        raise ValueError(
            f"{_name_prompt(unknown)}point label {labels[unknown][0]:g}; expected 1 (on the "
            "object), 0 (off it) or -1 (no point)"
        )
    # Pixel centers have integer coordinates, so the first pixel starts at -0.5.
    height, width = hw
    x, y = coords[..., 0], coords[..., 1]
    outside = (labels >= 0) & ~((x >= -0.5) & (x < width) & (y >= -0.5) & (y < height))
    if outside.any():
        point = coords[outside][0]
        raise ValueError(
            f"{_name_prompt(outside)}point ({point[0]:g}, {point[1]:g}) is outside the image of "
            f"width {width} and height {height}; points are (x, y) in pixels of the image, x first"
        )
    return coords.astype(np.float32), labels.astype(np.int32)


def check_boxes(boxes: Any, hw: tuple[int, int]) -> np.ndarray:
    """Checks boxes, see `check_prompts`. They may extend beyond the image's edges.

    Args:
      boxes: [P, 4], x1 y1 x2 y2 in pixels of the image.
      hw: (height, width) of the image.

    Returns:
      float32 [P, 4].
    """
    boxes = _to_numbers(boxes, "box")
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
            raise ValueError(f"{_name_prompt(bad)}box {boxes[bad][0].tolist()}: {why}")
    return boxes.astype(np.float32)


def check_masks(masks: Any, cells: tuple[int, int]) -> np.ndarray:
    """Checks mask prompts, see `check_prompts`.

    Args:
      masks: [P, 1, 4h, 4w] or [P, 4h, 4w], logits.
      cells: (4h, 4w), size of the mask grid.

    Returns:
      float32 [P, 4h, 4w].
    """
    masks = _to_numbers(masks, "mask_input")
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3 or masks.shape[1:] != cells:
        raise ValueError(
            f"mask_input has shape {masks.shape}; expected [1, {cells[0]}, {cells[1]}] per prompt: "
            "logits on the mask grid, such as one of `low_res` of an earlier prediction"
        )
    return masks.astype(np.float32)


def count_point_slots(prompts: Sequence[PromptSet]) -> int:
    """Returns a rounded number of point slots that holds the points of every prompt."""
    most = max((p.points.shape[1] for p in prompts if p.points is not None), default=0)
    return round_up_count(most, POINT_COUNTS)


def stack_prompts(
    rows: Sequence[PromptSet],
    shape: tuple[int, int],
    point_slots: int,
    cells: tuple[int, int] | None = None,
) -> Prompts:
    """Stacks prompt sets into one array per kind, with empty slots where there are none.

    Args:
      rows: One prompt set per row, in canvas pixels.
      shape: (R, P), at least the number of rows and the number of prompts in any of them.
      point_slots: Number of point slots per prompt.
      cells: (4h, 4w), size of the mask grid. None if no prompt has a mask.

    Returns:
      `Prompts` with leading axes [R, P], as NumPy arrays.
    """
    points = np.zeros((*shape, point_slots, 2), np.float32)
    labels = np.full((*shape, point_slots), PADDING, np.int32)
    boxes, has_box = np.zeros((*shape, 4), np.float32), np.zeros(shape, bool)
    masks = None if cells is None else np.zeros((*shape, *cells), np.float32)
    has_mask = None if cells is None else np.zeros(shape, bool)
    for row, prompts in enumerate(rows):
        own = row, slice(prompts.count)
        if prompts.points is not None:
            number = prompts.points.shape[1]
            points[*own, :number] = prompts.points
            # Users write -1 for "not a point", as in segment-anything. The model's -1 is padding.
            labels[*own, :number] = np.where(prompts.labels == -1, NOT_A_POINT, prompts.labels)
        if prompts.boxes is not None:
            boxes[own], has_box[own] = prompts.boxes, True
        if prompts.masks is not None:
            masks[own], has_mask[own] = prompts.masks, True
    return Prompts(
        points=points, labels=labels, boxes=boxes, has_box=has_box, masks=masks, has_mask=has_mask
    )


def _name_prompt(bad: np.ndarray) -> str:
    """Returns "prompt 3: " for the first bad of several prompts, from bool [P, ..]."""
    return f"prompt {np.argwhere(bad)[0][0]}: " if len(bad) > 1 else ""


def _to_numbers(values: Any, name: str) -> np.ndarray:
    """Converts values to float64. Raises ValueError unless they are finite numbers."""
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
        where = _name_prompt(bad) if array.ndim > 1 else ""
        raise ValueError(
            f"{where}{name} holds NaN or infinity: {array[bad][0]}; expected finite numbers"
        )
    return array.astype(np.float64)
