"""Checks of the prompts that users give: shapes, labels, and coordinates inside the image."""

from typing import Any

import numpy as np

from segjax.inference.sam.prompts import PromptSet

USER_LABELS = (0, 1, -1)  # as in segment-anything: background, foreground, "not a point"
# Beyond it, squares of float32 come near infinity, and the network's scores are NaN.
LARGEST = 1e9
PROMPT_NAMES = ("point_coords", "point_labels", "boxes", "mask_input", "texts")


def check_prompts(
    point_coords: Any = None,
    point_labels: Any = None,
    boxes: Any = None,
    mask_input: Any = None,
    texts: Any = None,
    *,
    hw: tuple[int, int],
    cells: tuple[int, int],
    text_width: int = 0,
) -> PromptSet:
    """Checks a user's prompts on one image.

    Any mix of points, boxes, masks and texts is allowed. Arrays without rows give no prompts.
    With no argument at all there is one prompt, which is empty.

    Args:
      point_coords: [P, N, 2], (x, y) in pixels of the image.
      point_labels: [P, N], one of `USER_LABELS`.
      boxes: [P, 4], x1 y1 x2 y2 in pixels of the image.
      mask_input: [P, 1, 4h, 4w] or [P, 4h, 4w], logits.
      texts: [P, E], vectors of CLIP.
      hw: (height, width) of the image.
      cells: (4h, 4w), size of the mask grid.
      text_width: E, 0 for a SAM without text prompts.

    Raises:
      ValueError: The prompts are invalid. The message says what was given, which prompt it is, and
        what was expected.
    """
    # Check each kind alone, then that all kinds have the same number of prompts.
    parts: list[np.ndarray | None] = [None] * len(PROMPT_NAMES)
    if point_coords is not None or point_labels is not None:
        parts[:2] = check_points(point_coords, point_labels, hw)
    if boxes is not None:
        parts[2] = check_boxes(boxes, hw)
    if mask_input is not None:
        parts[3] = check_masks(mask_input, cells)
    if texts is not None:
        parts[4] = check_texts(texts, text_width)
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


def check_texts(texts: Any, width: int) -> np.ndarray:
    """Checks vectors of texts, see `check_prompts`, and scales them to length 1.

    Args:
      texts: [P, E], vectors of CLIP.
      width: E, 0 for a SAM without text prompts.

    Returns:
      float32 [P, E].
    """
    if not width:
        raise ValueError(
            "this SAM has no text prompts; experiments/sam/words.py trains one. For other SAMs, "
            "`segjax everything --classes` names masks by a CLIP"
        )
    texts = _to_numbers(texts, "texts")
    if texts.ndim != 2 or texts.shape[-1] != width:
        raise ValueError(
            f"texts have shape {texts.shape}; expected vectors [P, {width}] of the CLIP that this "
            "SAM was trained with"
        )
    length = np.linalg.norm(texts, axis=-1, keepdims=True)
    if (zero := ~(length[:, 0] > 0)).any():
        raise ValueError(f"{_name_prompt(zero)}the vector of a text is zero")
    return (texts / length).astype(np.float32)


def check_masks(masks: Any, cells: tuple[int, int]) -> np.ndarray:
    """Checks mask prompts, see `check_prompts`.

    Args:
      masks: [P, 1, 4h, 4w] or [P, 4h, 4w], logits.
      cells: (4h, 4w), size of the mask grid.

    Returns:
      float32 [P, 4h, 4w].
    """
    given = np.asarray(masks)
    masks = _to_numbers(masks, "mask_input")
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim != 3 or masks.shape[1:] != cells:
        raise ValueError(
            f"mask_input has shape {masks.shape}; expected [1, {cells[0]}, {cells[1]}] per prompt: "
            "logits on the mask grid, such as one of `low_res` of an earlier prediction, or "
            "segjax.masks.as_mask_input(mask, model) of a mask of the image's size"
        )
    _refuse_binary(given, masks)
    return masks.astype(np.float32)


def _refuse_binary(given: np.ndarray, masks: np.ndarray) -> None:
    """Raises ValueError for masks of 0 and 1 or 255 in place of logits.

    As logits they would say "inside or undecided" everywhere.
    """
    values = np.unique(masks[:64])
    highest = values[-1] if values.size else 0
    is_binary = highest in (1, 255) and set(values.tolist()) <= {0, highest}
    if given.dtype == bool or is_binary:
        raise ValueError(
            f"mask_input is a binary mask ({given.dtype}, values up to {highest:g}); expected "
            "logits, positive inside and negative outside: make them of a mask of the image's size "
            "with segjax.masks.as_mask_input(mask, model)"
        )


def _name_prompt(bad: np.ndarray) -> str:
    """Returns "prompt 3: " for the first bad of several prompts, from bool [P, ..]."""
    return f"prompt {np.argwhere(bad)[0][0]}: " if len(bad) > 1 else ""


def _to_numbers(values: Any, name: str) -> np.ndarray:
    """Converts values to float64. Raises ValueError unless they are usable numbers."""
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
    array = array.astype(np.float64)
    bad = np.abs(array) > LARGEST
    if bad.any():
        where = _name_prompt(bad) if array.ndim > 1 else ""
        raise ValueError(
            f"{where}{name} holds {array[bad][0]:g}; expected numbers between -{LARGEST:g} and "
            f"{LARGEST:g}"
        )
    return array


def count_axes(value: Any, name: str) -> int:
    """Returns the number of axes of a value. Raises ValueError if it is ragged."""
    try:
        return np.ndim(value)
    except ValueError as error:
        raise ValueError(f"{name} is ragged: {error}; expected an array") from error
