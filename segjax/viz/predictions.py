"""Draws the masks of prompted objects with their prompts, numbers and predicted IoUs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segjax.viz.drawing import INK, PALETTE, draw_masks, draw_prompts, get_font
from segjax.viz.sheets import LARGEST_PANEL, SMALLEST_PANEL, lay_out_panels


def draw_predictions(
    image: np.ndarray, masks: np.ndarray, prompts: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    """Overlays one mask for each prompted object, with its box in the mask's color and its number.

    Numbers start at 0, as in the names of files. A single object has no number, and an empty mask
    is said so.

    Args:
      image: uint8 [H, W, 3].
      masks: bool [P, H, W].
      prompts: one dict per object: "points" [[x, y], ...] in pixels, "labels" [...] (1 or 0), and
        "box" [x1, y1, x2, y2] or None.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: Different numbers of masks and prompts, or masks that do not fit the image.
    """
    if len(masks) != len(prompts):
        raise ValueError(f"{len(masks)} masks for {len(prompts)} objects; expected one per object")
    pixels = draw_masks(image, np.asarray(masks).reshape(-1, *image.shape[:2]))
    colors = [PALETTE[index % len(PALETTE)] for index in range(len(prompts))]
    framed = [index for index, prompt in enumerate(prompts) if prompt["box"] is not None]
    pixels = draw_prompts(
        pixels,
        [xy for prompt in prompts for xy in prompt["points"]],
        [label for prompt in prompts for label in prompt["labels"]],
        [prompts[index]["box"] for index in framed],
        box_colors=[colors[index] for index in framed] or PALETTE,
    )
    canvas = Image.fromarray(pixels)
    for index, (mask, prompt) in enumerate(zip(masks, prompts, strict=True)):
        text = str(index) if len(prompts) > 1 else ""
        if not np.any(mask):
            text = f"{text} empty mask".strip()
        if text:
            _draw_number(canvas, text, _find_corner(mask, prompt), colors[index])
    return np.asarray(canvas)


def draw_candidate_sheet(
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    prompts: Sequence[Mapping[str, Any]],
) -> np.ndarray:
    """Draws one row per object with a panel for each of its candidate masks and its predicted IoU.

    Args:
      image: uint8 [H, W, 3].
      masks: bool [M, H, W] of each object.
      scores: predicted IoUs, float [M], of each object.
      prompts: one dict per object, as for `draw_predictions`.

    Returns:
      uint8 [h, w, 3]. Panels have a longer side of 256 to 512 pixels.
    """
    side = int(np.clip(max(image.shape[:2]), SMALLEST_PANEL, LARGEST_PANEL))
    scale = side / max(image.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    resample = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS
    small = np.asarray(Image.fromarray(image).resize(size, resample))
    rows = []
    for index, (candidates, ious, prompt) in enumerate(zip(masks, scores, prompts, strict=True)):
        color = PALETTE[index % len(PALETTE)]
        row = []
        for number, (mask, iou) in enumerate(zip(candidates, ious, strict=True)):
            resized = Image.fromarray(np.asarray(mask, np.uint8)).resize(size, 0)
            panel = draw_masks(small, np.asarray(resized) > 0, [color])
            box = [] if prompt["box"] is None else [prompt["box"]]
            panel = draw_prompts(
                panel, prompt["points"], prompt["labels"], box, scale=scale, box_colors=[color]
            )
            name = f"object {index}: " if len(prompts) > 1 else ""
            best = ", best" if number == int(np.argmax(ious)) else ""
            empty = "" if np.any(mask) else ", empty"
            row.append((Image.fromarray(panel), f"{name}predicted IoU {iou:.2f}{best}{empty}"))
        rows.append(row)
    titles = [f"mask {number}" for number in range(max(len(row) for row in rows))]
    return lay_out_panels(rows, titles, side)


def _find_corner(mask: np.ndarray, prompt: Mapping[str, Any]) -> tuple[float, float]:
    """Returns (x, y) of an object's number: beside its box, its first click, or its mask."""
    if prompt["box"] is not None:
        return tuple(prompt["box"][:2])
    on_object = [xy for xy, label in zip(prompt["points"], prompt["labels"], strict=True) if label]
    if on_object or len(prompt["points"]):
        x, y = (on_object or prompt["points"])[0]
        offset = max(5.0, max(mask.shape) / 64)
        return x + offset, y - 2 * offset
    ys, xs = np.nonzero(mask)
    return (float(xs.min()), float(ys.min())) if len(xs) else (0.0, 0.0)


def _draw_number(
    canvas: Image.Image, text: str, corner: tuple[float, float], color: tuple[int, int, int]
) -> None:
    """Writes a text on a field of the object's color, moved into the image where it must be."""
    height = max(16, round(max(canvas.size) / 36))
    font = get_font(round(0.75 * height))
    width = round(font.getlength(text) + 0.6 * height)
    x = min(max(0, round(corner[0])), max(0, canvas.width - width))
    y = min(max(0, round(corner[1])), max(0, canvas.height - height))
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle((x, y, x + width, y + height), height / 4, fill=tuple(color))
    draw.text((x + width / 2, y + height / 2), text, INK, font, anchor="mm")
