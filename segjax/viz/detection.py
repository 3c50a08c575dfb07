"""Draws detections: boxes, masks, class names with scores, keypoints, and sheets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from segjax.viz.drawing import INK, PALETTE, Color, check_image, draw_masks, get_font
from segjax.viz.sheets import LARGEST_PANEL, SMALLEST_PANEL, lay_out_panels

_TAG_SHARE = 0.1  # share of the image that tags may cover, and of the boxes three times that


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    scores: Sequence[float] | np.ndarray | None = None,
    names: Sequence[str] = (),
    *,
    keypoints: np.ndarray | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    colors: Sequence[Color] = PALETTE,
    scale: float = 1.0,
) -> np.ndarray:
    """Draws objects in a color each, the most confident on top.

    A tag above the box shows the class and the score. If the tags would hide a crowd, they show the
    score alone, or are left out.

    Args:
      image: uint8 [H, W, 3], `scale` times as large as the frame of boxes and keypoints. See
        `choose_readable_scale`.
      boxes: [D, 4], x1 y1 x2 y2 in continuous pixel coordinates.
      masks: bool [D, H, W].
      labels: int [D], class indices into `names`.
      scores: float [D].
      names: class names. Classes without a name are shown by number.
      keypoints: [D, J, 2 or 3], continuous x, y and perhaps the visibility. Keypoints of
        visibility 0 are not drawn, those of 1 (hidden) are hollow.
      skeleton: pairs of keypoint indices that a line joins.
      colors: RGB colors. Object d gets colors[d % len(colors)].
      scale: pixels of `image` per pixel of the coordinates.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: Arrays that do not fit each other.
    """
    check_image(image)
    boxes = np.asarray(boxes, float).reshape(-1, 4) * scale
    optional = {"masks": masks, "labels": labels, "scores": scores, "keypoints": keypoints}
    for name, values in optional.items():
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"{len(values)} {name} for {len(boxes)} boxes; expected one per box")

    # Masks
    pixels = image.copy()
    if masks is not None and len(boxes):
        pixels = draw_masks(image, masks, colors, outline=0)
    canvas = Image.fromarray(pixels)

    # Boxes and keypoints
    draw, line = ImageDraw.Draw(canvas), max(1, round(max(image.shape[:2]) / 300))
    order = np.arange(len(boxes))[::-1] if scores is None else np.argsort(scores, kind="stable")
    for index in order:
        color = tuple(colors[index % len(colors)])
        x1, y1, x2, y2 = boxes[index]
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=line)
        if keypoints is not None:
            points = np.array(keypoints[index], float)
            points[:, :2] *= scale
            _draw_keypoints(draw, points, skeleton, color, line)

    # Tags, above all boxes
    tags = _choose_tags(boxes, labels, scores, names, canvas.size)
    for index in order:
        if tags[index]:
            color = tuple(colors[index % len(colors)])
            _draw_tag(draw, canvas.size, boxes[index], tags[index], color)
    return np.asarray(canvas)


def choose_readable_scale(hw: tuple[int, int]) -> int:
    """Returns the factor that enlarges an image so that tags are readable.

    Args:
      hw: (height, width) in pixels.
    """
    return max(1, round(LARGEST_PANEL / max(hw)))


def draw_detection_sheet(
    images: Sequence[np.ndarray],
    ground_truth: Sequence[Mapping[str, np.ndarray]],
    detections: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str] = (),
    *,
    threshold: float = 0.5,
    skeleton: Sequence[tuple[int, int]] = (),
) -> np.ndarray:
    """Draws one row per image: its ground truth beside its detections.

    Args:
      images: K images, uint8 [H, W, 3] of any sizes.
      ground_truth: objects of each image, in its pixels: "boxes", and perhaps "masks", "labels" and
        "keypoints", as in `draw_detections`.
      detections: detections of each image, likewise, with "scores".
      names: class names.
      threshold: detections with a lower score are not shown.
      skeleton: pairs of keypoint indices that a line joins.

    Returns:
      uint8 [H, W, 3]. Small images are enlarged.
    """
    longest = max(max(image.shape[:2]) for image in images)
    side = int(np.clip(longest, SMALLEST_PANEL, LARGEST_PANEL))
    rows = []
    for image, given, found in zip(images, ground_truth, detections, strict=True):
        scores = np.asarray(found.get("scores", np.ones(len(found["boxes"]))))
        confident = {
            name: np.asarray(values)[scores >= threshold] for name, values in found.items()
        }
        groups = (given, confident)
        panels = [_draw_panel(image, objects, side, names, skeleton) for objects in groups]
        captions = [f"{len(objects['boxes'])} objects" for objects in groups]
        rows.append(list(zip(panels, captions, strict=True)))
    titles = ["ground truth", f"detections, score {threshold:g} or more"]
    return lay_out_panels(rows, titles, side)


def _draw_panel(
    image: np.ndarray, objects: Mapping, side: int, names: Sequence[str], skeleton: Sequence
) -> Image.Image:
    """Draws objects on an image whose longer side becomes `side` pixels."""
    scale = side / max(image.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    enlarge = lambda pixels: np.asarray(
        Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    )
    # Masks grow with the image. `scale` does so for boxes and keypoints.
    objects = dict(objects)
    if objects.get("masks") is not None:
        gray = (np.asarray(mask, bool).astype(np.uint8) * 255 for mask in objects["masks"])
        masks = [enlarge(mask) > 127 for mask in gray]
        objects["masks"] = np.array(masks).reshape(-1, *size[::-1])
    options = dict(names=names, skeleton=skeleton, scale=scale)
    return Image.fromarray(draw_detections(enlarge(image), **objects, **options))


def _choose_tags(
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray | None,
    scores: Sequence[float] | np.ndarray | None,
    names: Sequence[str],
    size: tuple[int, int],
) -> list[str]:
    """Chooses the most detailed tags that leave enough of the image visible, or empty ones."""
    # Candidates from detailed to short
    classes = numbers = None
    if labels is not None:
        get_name = lambda label: names[label] if 0 <= label < len(names) else str(label)
        classes = [get_name(int(label)) for label in labels]
    if scores is not None:
        numbers = [f"{score:.2f}" for score in scores]
    candidates = [tags for tags in (numbers, classes) if tags]
    if classes and numbers:
        both = [f"{name} {number}" for name, number in zip(classes, numbers, strict=True)]
        candidates.insert(0, both)
    # The first that covers neither too much of the image nor of the boxes
    for tags in candidates:
        frames = [_tag_frame(box, text, size) for box, text in zip(boxes, tags, strict=True)]
        frames = np.array(frames).reshape(-1, 4)
        fits = _area(frames).sum() <= _TAG_SHARE * size[0] * size[1]
        if fits and _hidden_share(boxes, frames) <= 3 * _TAG_SHARE:
            return tags
    return [""] * len(boxes)


def _hidden_share(boxes: np.ndarray, frames: np.ndarray) -> float:
    """Returns the share of the boxes' area under tags. Overlapping tags count repeatedly."""
    low = np.maximum(boxes[:, None, :2], frames[:, :2])
    shared = np.minimum(boxes[:, None, 2:], frames[:, 2:]) - low
    return shared.clip(0).prod(-1).sum() / max(_area(boxes).sum(), 1)


def _area(frames: np.ndarray) -> np.ndarray:
    return (frames[:, 2:] - frames[:, :2]).clip(0).prod(-1)


def _tag_frame(
    box: np.ndarray, text: str, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Returns x1 y1 x2 y2 of a tag, above the box if there is room."""
    height = 1.3 * _letter_height(size)
    width = get_font(_letter_height(size)).getlength(text) + _letter_height(size) * 0.5
    left = min(max(0, box[0]), max(0, size[0] - width))
    top = box[1] - height if box[1] >= height else box[1]
    return left, top, left + width, top + height


def _letter_height(size: tuple[int, int]) -> int:
    """Returns the height of the letters of tags, in pixels."""
    return max(9, round(max(size) / 45))


def _draw_tag(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], box: np.ndarray, text: str, color: Color
) -> None:
    """Draws a text on a patch of color, in dark or white ink."""
    height, (left, top, right, bottom) = _letter_height(size), _tag_frame(box, text, size)
    ink = INK if np.dot(color, (0.3, 0.59, 0.11)) > 110 else "white"
    draw.rectangle((left, top, right, bottom), fill=color)
    draw.text((left + height * 0.25, top + 0.65 * height), text, ink, get_font(height), anchor="lm")


def _draw_keypoints(
    draw: ImageDraw.ImageDraw, points: np.ndarray, skeleton: Sequence, color: Color, line: int
) -> None:
    """Draws limbs as lines, and keypoints as discs (visible) or circles (hidden)."""
    visibility = points[:, 2] if points.shape[1] > 2 else np.full(len(points), 2)
    # Limbs, below the keypoints
    for one, other in skeleton:
        if visibility[one] > 0 and visibility[other] > 0:
            draw.line([*points[one, :2], *points[other, :2]], fill=color, width=line + 1)
    radius = 1.5 * line + 1
    for (x, y), seen in zip(points[:, :2], visibility, strict=True):
        if seen > 0:
            circle = (x - radius, y - radius, x + radius, y + radius)
            fill, outline = (color, "white") if seen > 1 else (None, color)
            draw.ellipse(circle, fill=fill, outline=outline, width=1)
