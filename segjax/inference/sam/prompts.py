"""Sets of prompts: scaled to the model's canvas, and padded to a few sizes.

Padding lets one compiled program serve many counts of prompts and points. Empty slots are masked
out and change no result.
"""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from segjax.images.transforms import scale_boxes, scale_points
from segjax.models.sam.prompt_encoder import NOT_A_POINT, PADDING, Prompts

POINT_COUNTS = (1, 4, 16, 64)
PROMPT_COUNTS = (1, 4, 16, 64)


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """P checked prompts on one image. A kind is given for every prompt, or is None.

    Attributes:
      count: P, the number of prompts.
      points: float32 [P, N, 2], (x, y) in pixels.
      labels: int32 [P, N], as in segment-anything: 1 foreground, 0 background, -1 "not a point".
      boxes: float32 [P, 4], x1 y1 x2 y2 in pixels.
      masks: float32 [P, 4h, 4w], logits on the mask grid.
      texts: float32 [P, E], vectors of CLIP.
    """

    count: int
    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    texts: np.ndarray | None = None

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
        names = ("points", "labels", "boxes", "masks", "texts")
        parts = {name: getattr(self, name) for name in names}
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


def count_point_slots(prompts: Sequence[PromptSet]) -> int:
    """Returns a rounded number of point slots that holds the points of every prompt."""
    most = max((p.points.shape[1] for p in prompts if p.points is not None), default=0)
    return round_up_count(most, POINT_COUNTS)


def stack_prompts(
    rows: Sequence[PromptSet],
    shape: tuple[int, int],
    point_slots: int,
    cells: tuple[int, int] | None = None,
    text_width: int = 0,
) -> Prompts:
    """Stacks prompt sets into one array per kind, with empty slots where there are none.

    Args:
      rows: One prompt set per row, in canvas pixels.
      shape: (R, P), at least the number of rows and the number of prompts in any of them.
      point_slots: Number of point slots per prompt.
      cells: (4h, 4w), size of the mask grid. None if no prompt has a mask.
      text_width: channels of the texts' vectors. 0 if no prompt has a text.

    Returns:
      `Prompts` with leading axes [R, P], as NumPy arrays.
    """
    points = np.zeros((*shape, point_slots, 2), np.float32)
    labels = np.full((*shape, point_slots), PADDING, np.int32)
    boxes, has_box = np.zeros((*shape, 4), np.float32), np.zeros(shape, bool)
    masks = None if cells is None else np.zeros((*shape, *cells), np.float32)
    has_mask = None if cells is None else np.zeros(shape, bool)
    texts = np.zeros((*shape, text_width), np.float32) if text_width else None
    has_text = np.zeros(shape, bool) if text_width else None
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
        if prompts.texts is not None:
            texts[own], has_text[own] = prompts.texts, True
    return Prompts(
        points=points,
        labels=labels,
        boxes=boxes,
        has_box=has_box,
        masks=masks,
        has_mask=has_mask,
        texts=texts,
        has_text=has_text,
    )
