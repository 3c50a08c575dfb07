"""Pictures of detections: frames, masks, classes with their scores, keypoints; and truth beside answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from segjax.viz.drawing import (
    _INK,
    _LARGEST_PANEL,
    _SMALLEST_PANEL,
    PALETTE,
    _check_image,
    _font,
    _lay_out,
    overlay,
)

_TAGGED = 0.1  # share of a picture that words may take, and of the boxes three times that


def detection_overlay(
    image: np.ndarray,
    boxes: np.ndarray,
    masks: np.ndarray | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    scores: Sequence[float] | np.ndarray | None = None,
    names: Sequence[str] = (),
    *,
    keypoints: np.ndarray | None = None,
    skeleton: Sequence[tuple[int, int]] = (),
    colors: Sequence[tuple[int, int, int]] = PALETTE,
    scale: float = 1.0,
) -> np.ndarray:
    """Objects with a colour each: frame, mask, and the class and score above the frame; the most certain lie on top.

    In a crowd that words would hide there are scores alone, or no words.

    Args:
      image: uint8 [H, W, 3], `scale` times as large as the frame of boxes and keypoints; see `readable_scale`.
      boxes: [D, 4], x1 y1 x2 y2 in pixels, continuous edges.
      masks: bool [D, H, W].
      labels: int [D], classes; names: of the classes, the numbers where there is none.
      scores: [D].
      keypoints: [D, K, 2 or 3], continuous x, y and perhaps visibility: those of 0 are not drawn, hidden ones (1) are
        hollow. skeleton: pairs of keypoints that are joined by a line.
      colors: RGB; object d gets colors[d % len(colors)].

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: arrays that do not fit each other.
    """
    _check_image(image)
    boxes = np.asarray(boxes, float).reshape(-1, 4) * scale
    for name, values in (
        ("masks", masks),
        ("labels", labels),
        ("scores", scores),
        ("keypoints", keypoints),
    ):
        if values is not None and len(values) != len(boxes):
            raise ValueError(f"{len(values)} {name} for {len(boxes)} boxes; expected one a box")
    some_masks = masks is not None and len(boxes)
    picture = Image.fromarray(
        overlay(image, masks, colors, outline=0) if some_masks else image.copy()
    )
    draw, line = ImageDraw.Draw(picture), max(1, round(max(image.shape[:2]) / 300))
    order = np.arange(len(boxes))[::-1] if scores is None else np.argsort(scores, kind="stable")
    for index in order:
        color = tuple(colors[index % len(colors)])
        x1, y1, x2, y2 = boxes[index]
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=line)
        if keypoints is not None:
            points = np.array(keypoints[index], float)
            points[:, :2] *= scale
            _draw_keypoints(draw, points, skeleton, color, line)
    words = _words(boxes, labels, scores, names, picture.size)
    for index in order:
        if words[index]:
            _tag(draw, picture.size, boxes[index], words[index], tuple(colors[index % len(colors)]))
    return np.asarray(picture)


def readable_scale(hw: tuple[int, int]) -> int:
    """How many times as large a picture should become, so that words on it can be read and leave something to see."""
    return max(1, round(_LARGEST_PANEL / max(hw)))


def detection_sheet(
    images: Sequence[np.ndarray],
    truth: Sequence[Mapping[str, np.ndarray]],
    answers: Sequence[Mapping[str, np.ndarray]],
    names: Sequence[str] = (),
    *,
    threshold: float = 0.5,
    skeleton: Sequence[tuple[int, int]] = (),
) -> np.ndarray:
    """One row a picture: its objects, and what was found.

    Args:
      images: K pictures, uint8 [H, W, 3] of any sizes.
      truth, answers: of each picture, by the names of `detection_overlay`'s arguments: boxes, and perhaps masks,
        labels, scores and keypoints, in its pixels.
      threshold: answers with a lower score are not shown.

    Returns:
      uint8 [H, W, 3]; small pictures are enlarged.
    """
    side = int(
        np.clip(max(max(image.shape[:2]) for image in images), _SMALLEST_PANEL, _LARGEST_PANEL)
    )
    rows = []
    for image, given, found in zip(images, truth, answers, strict=True):
        certain = _chosen(
            found, np.asarray(found.get("scores", np.ones(len(found["boxes"])))) >= threshold
        )
        panels = [_panel(image, objects, side, names, skeleton) for objects in (given, certain)]
        captions = [f"{len(objects['boxes'])} objects" for objects in (given, certain)]
        rows.append(list(zip(panels, captions, strict=True)))
    return _lay_out(rows, ["truth", f"found, score {threshold:g} or more"], side)


def _chosen(objects: Mapping[str, np.ndarray], chosen: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.asarray(values)[chosen] for name, values in objects.items()}


def _panel(
    image: np.ndarray, objects: Mapping, side: int, names: Sequence[str], skeleton: Sequence
) -> Image.Image:
    scale = side / max(image.shape[:2])
    size = tuple(max(1, round(length * scale)) for length in image.shape[1::-1])
    large = lambda pixels: np.asarray(
        Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    )
    objects = dict(objects)
    if objects.get("masks") is not None:
        masks = [
            large(np.asarray(mask, bool).astype(np.uint8) * 255) > 127 for mask in objects["masks"]
        ]
        objects["masks"] = np.array(masks).reshape(-1, *size[::-1])
    return Image.fromarray(
        detection_overlay(large(image), **objects, names=names, skeleton=skeleton, scale=scale)
    )


def _called(label: int, names: Sequence[str]) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def _words(
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray | None,
    scores: Sequence[float] | np.ndarray | None,
    names: Sequence[str],
    size: tuple[int, int],
) -> list[str]:
    """What is said of each object: the most that leaves enough of the picture to be seen."""
    classes = None if labels is None else [_called(int(label), names) for label in labels]
    numbers = None if scores is None else [f"{score:.2f}" for score in scores]
    both = (
        [[f"{name} {number}" for name, number in zip(classes, numbers, strict=True)]]
        if classes and numbers
        else []
    )
    for words in (*both, *(some for some in (numbers, classes) if some)):
        tags = np.array(
            [_tag_frame(box, text, size) for box, text in zip(boxes, words, strict=True)]
        ).reshape(-1, 4)
        if _area(tags).sum() <= _TAGGED * size[0] * size[1] and _hidden(boxes, tags) <= 3 * _TAGGED:
            return words
    return [""] * len(boxes)


def _hidden(boxes: np.ndarray, tags: np.ndarray) -> float:
    """Share of the boxes' area that lies under words, those of one another counted each."""
    shared = np.minimum(boxes[:, None, 2:], tags[:, 2:]) - np.maximum(
        boxes[:, None, :2], tags[:, :2]
    )
    return shared.clip(0).prod(-1).sum() / max(_area(boxes).sum(), 1)


def _area(frames: np.ndarray) -> np.ndarray:
    return (frames[:, 2:] - frames[:, :2]).clip(0).prod(-1)


def _tag_frame(
    box: np.ndarray, text: str, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Where words stand, x1 y1 x2 y2: above the box, or inside it at the picture's edge."""
    height, width = 1.3 * _tag_height(size), _tag_width(text, size)
    left = min(max(0, box[0]), max(0, size[0] - width))
    top = box[1] - height if box[1] >= height else box[1]
    return left, top, left + width, top + height


def _tag_height(size: tuple[int, int]) -> int:
    """Of the letters, px."""
    return max(9, round(max(size) / 45))


def _tag_width(text: str, size: tuple[int, int]) -> float:
    return _font(_tag_height(size)).getlength(text) + _tag_height(size) * 0.5


def _tag(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], box: np.ndarray, text: str, color: tuple
) -> None:
    """Words on a patch of colour."""
    height, (left, top, right, bottom) = _tag_height(size), _tag_frame(box, text, size)
    ink = _INK if np.dot(color, (0.3, 0.59, 0.11)) > 110 else "white"
    draw.rectangle((left, top, right, bottom), fill=color)
    draw.text((left + height * 0.25, top + 0.65 * height), text, ink, _font(height), anchor="lm")


def _draw_keypoints(
    draw: ImageDraw.ImageDraw, points: np.ndarray, skeleton: Sequence, color: tuple, line: int
) -> None:
    visibility = points[:, 2] if points.shape[1] > 2 else np.full(len(points), 2)
    for one, other in skeleton:
        if visibility[one] > 0 and visibility[other] > 0:
            draw.line([*points[one, :2], *points[other, :2]], fill=color, width=line + 1)
    radius = 1.5 * line + 1
    for (x, y), seen in zip(points[:, :2], visibility, strict=True):
        if seen > 0:
            circle = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(
                circle,
                fill=color if seen > 1 else None,
                outline="white" if seen > 1 else color,
                width=1,
            )
