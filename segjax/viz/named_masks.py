"""Draws masks with their names: one color per class, the name inside of each mask."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from segjax.viz.detection import choose_readable_scale
from segjax.viz.drawing import INK, PALETTE, check_image, draw_label_map, get_font

_SMALLEST = 0.004  # of the image's area: smaller visible regions get no tag


def draw_named_masks(
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    classes: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
) -> np.ndarray:
    """Draws masks in the colors of their classes, smaller ones on top, and their names on them.

    A name stands where its mask is visible. It is left out where it would cover another name, or
    where little of the mask is visible. Small images are enlarged.

    Args:
      image: uint8 [H, W, 3].
      masks: N masks, bool [H, W].
      classes: index of the name of each mask.
      names: class names.
      scores: probability of each name, which is written behind it. None: none is.

    Returns:
      uint8 [h, w, 3].

    Raises:
      ValueError: numbers of masks, classes and scores that differ.
    """
    check_image(image)
    if len(masks) != len(classes) or (scores is not None and len(scores) != len(masks)):
        raise ValueError(f"{len(masks)} masks and {len(classes)} classes; expected one per mask")
    # Which mask is visible where: the smallest one
    visible = np.full(image.shape[:2], -1)
    for index in sorted(range(len(masks)), key=lambda i: -np.count_nonzero(masks[i])):
        visible[np.asarray(masks[index], bool)] = index
    labels = np.where(visible >= 0, np.asarray([*classes, 0])[visible] + 1, 0)
    scale = choose_readable_scale(image.shape[:2])
    enlarge = lambda pixels: np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1)
    canvas = Image.fromarray(draw_label_map(enlarge(image), enlarge(labels)))

    # Names, those of large regions first
    draw, taken = ImageDraw.Draw(canvas), np.zeros((canvas.height, canvas.width), bool)
    areas = np.bincount(visible[visible >= 0], minlength=len(masks))
    for index in np.argsort(-areas, kind="stable"):
        if areas[index] < _SMALLEST * visible.size:
            break
        text = names[classes[index]] + (f" {scores[index]:.2f}" if scores is not None else "")
        center = [scale * (value + 0.5) for value in _find_middle(visible == index)]
        _draw_tag(draw, taken, center, text, PALETTE[classes[index] % len(PALETTE)])
    return np.asarray(canvas)


def _find_middle(mask: np.ndarray) -> tuple[int, int]:
    """Returns (x, y) of a pixel far from the edge of a mask: where most erosions end."""
    inside = np.pad(mask, 1)
    while True:
        smaller = inside.copy()
        smaller[1:-1, 1:-1] &= inside[:-2, 1:-1] & inside[2:, 1:-1]
        smaller[1:-1, 1:-1] &= inside[1:-1, :-2] & inside[1:-1, 2:]
        if not smaller.any():
            break
        inside = smaller
    y, x = np.argwhere(inside)[0] - 1
    return int(x), int(y)


def _draw_tag(
    draw: ImageDraw.ImageDraw,
    taken: np.ndarray,
    center: Sequence[float],
    text: str,
    color: tuple[int, int, int],
) -> None:
    """Writes a text on a field of color around a center, unless it would cover another."""
    height = max(10, round(max(taken.shape) / 40))
    font = get_font(height)
    width = font.getlength(text) + 0.5 * height
    left = min(max(0.0, center[0] - width / 2), max(0.0, taken.shape[1] - width))
    top = min(max(0.0, center[1] - 0.65 * height), taken.shape[0] - 1.3 * height)
    frame = (slice(int(top), int(top + 1.3 * height)), slice(int(left), int(left + width)))
    if taken[frame].any():
        return
    taken[frame] = True
    ink = INK if np.dot(color, (0.3, 0.59, 0.11)) > 110 else "white"
    draw.rectangle((left, top, left + width, top + 1.3 * height), fill=tuple(color))
    draw.text((left + 0.25 * height, top + 0.65 * height), text, ink, font, anchor="lm")
