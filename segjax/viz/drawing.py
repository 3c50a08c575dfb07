"""Draws masks and prompts on images: uint8 RGB arrays in, uint8 RGB arrays out."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]  # RGB, 0..255

# Okabe and Ito's color-blind safe palette, lightened where colors vanish on dark images.
PALETTE = (
    (0, 158, 255),
    (255, 140, 0),
    (0, 200, 120),
    (230, 90, 170),
    (250, 220, 50),
    (150, 110, 255),
    (230, 70, 30),
)
FOREGROUND, BACKGROUND = (40, 200, 80), (235, 50, 50)
MISSED, WRONG = (0, 158, 255), (255, 120, 0)
INK = (40, 44, 52)


def draw_masks(
    image: np.ndarray,
    masks: np.ndarray,
    colors: Sequence[Color] = PALETTE,
    *,
    opacity: float = 0.45,
    outline: int | None = None,
) -> np.ndarray:
    """Overlays masks on an image, each in its color, with smaller masks above larger ones.

    Args:
      image: uint8 [H, W, 3].
      masks: bool [M, H, W], or one mask [H, W].
      colors: RGB colors. Mask m gets colors[m % len(colors)].
      opacity: opacity of the inside of a mask, 0..1.
      outline: width of the solid outline inside the edge, in pixels. 0 draws none. Default: in
        proportion to the image, 1 pixel up to a side of 900.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: Image and masks do not fit each other.

    Example:
      >>> image, mask = np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=bool)
      >>> draw_masks(image, mask, [(200, 0, 0)])[0, 0].tolist()
      [200, 0, 0]
    """
    check_image(image)
    masks = np.asarray(masks).astype(bool)
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(
            f"masks {masks.shape} do not fit an image {image.shape}; expected [M, H, W] or [H, W]"
        )
    outline = max(1, round(max(image.shape[:2]) / 600)) if outline is None else outline
    out = image.astype(np.float32)
    # From the largest to the smallest
    for index in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        mask, color = masks[index], np.asarray(colors[index % len(colors)], np.float32)
        out[mask] += opacity * (color - out[mask])
        if outline:
            out[mask & ~_erode(mask, outline)] = color
    return np.round(out).astype(np.uint8)


def draw_label_map(
    image: np.ndarray,
    labels: np.ndarray,
    colors: Sequence[Color] = PALETTE,
    *,
    opacity: float = 0.45,
) -> np.ndarray:
    """Overlays a label map on an image, with solid lines between different labels.

    Args:
      image: uint8 [H, W, 3].
      labels: int [H, W]. 0 shows the image, n > 0 gets colors[(n - 1) % len(colors)].
      colors: RGB colors.
      opacity: opacity of the inside of a segment, 0..1.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: Image and labels do not fit each other.
    """
    check_image(image)
    if labels.shape != image.shape[:2]:
        raise ValueError(
            f"labels {labels.shape} do not fit an image {image.shape}; expected [H, W]"
        )
    border = np.zeros(labels.shape, bool)
    # Both sides of every change, down and across
    for border_view, view in ((border, labels), (border.T, labels.T)):
        changes = view[:-1] != view[1:]
        border_view[:-1] |= changes
        border_view[1:] |= changes
    # 16-bit fixed point (1/256) keeps the memory small for images of many megapixels.
    weight = np.where(border, 256, round(256 * opacity)).astype(np.uint16) * (labels > 0)
    color = np.asarray(colors, np.uint16)[(labels - 1) % len(colors)]
    mixed = (image * (256 - weight[..., None]) + color * weight[..., None] + 128) >> 8
    return mixed.astype(np.uint8)


def draw_prompts(
    image: np.ndarray,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    *,
    scale: float = 1.0,
    radius: float | None = None,
    numbers: bool = False,
    box_colors: Sequence[Color] = (FOREGROUND,),
) -> np.ndarray:
    """Draws clicks as stars (green foreground, red background) and boxes as frames.

    Args:
      image: uint8 [H, W, 3], `scale` times as large as the frame of the coordinates.
      points: [N, 2], (x, y) pixel indices: (0, 0) is the center of the first pixel.
      labels: [N], 1 foreground, 0 background, negative not drawn. None: all foreground.
      boxes: [K, 4] or [4], x1 y1 x2 y2 in continuous coordinates of pixel edges.
      scale: pixels of `image` per pixel of the coordinates.
      radius: radius of a star in pixels of `image`. Default: 1/64 of the longer side, so that a
        star does not hide the object below it.
      numbers: True to write the number of each click beside it, from 1.
      box_colors: RGB colors of the frames. Box k gets box_colors[k % len(box_colors)].

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: Different numbers of points and labels.
    """
    check_image(image)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    size = max(image.shape[:2])

    # Boxes
    width = max(1, round(size / 300))
    boxes = np.asarray([] if boxes is None else boxes, float).reshape(-1, 4) * scale
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        color = tuple(box_colors[index % len(box_colors)])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=width)

    # Clicks, in reverse order, so that the first clicks lie on top
    points = np.asarray([] if points is None else points, float).reshape(-1, 2)
    labels = np.ones(len(points), int) if labels is None else np.asarray(labels).reshape(-1)
    if len(labels) != len(points):
        raise ValueError(
            f"{len(points)} points but {len(labels)} labels; expected one label per point"
        )
    radius = radius or max(5.0, size / 64)
    for index in range(len(points) - 1, -1, -1):
        if labels[index] < 0:
            continue
        x, y = (points[index] + 0.5) * scale
        star = _make_star(radius, FOREGROUND if labels[index] > 0 else BACKGROUND)
        canvas.paste(star, (round(x - star.width / 2), round(y - star.height / 2)), star)
        if numbers:
            font = get_font(round(1.7 * radius))
            at = (x + 0.9 * radius, y - 0.9 * radius)
            options = dict(anchor="lm", stroke_width=2, stroke_fill=INK)
            draw.text(at, str(index + 1), "white", font, **options)
    return np.asarray(canvas)


def draw_highlighted_mask(
    image: np.ndarray, mask: np.ndarray, color: Color = PALETTE[0]
) -> np.ndarray:
    """Draws everything outside a mask gray and dim, and an outline around it.

    Args:
      image: uint8 [H, W, 3].
      mask: bool [H, W].
      color: RGB color of the outline.

    Returns:
      uint8 [H, W, 3].
    """
    check_image(image)
    mask = np.asarray(mask).astype(bool)
    gray = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    dim = (0.5 * (0.8 * gray + 0.2 * image) + 15).astype(np.uint8)
    background = np.where(mask[..., None], image, dim)
    return draw_masks(background, mask, [color], opacity=0.15, outline=3)


def draw_errors(image: np.ndarray, prediction: np.ndarray, ground_truth: np.ndarray) -> np.ndarray:
    """Draws the errors of a mask on a dim gray image.

    Missed pixels are blue, false positives orange, and true positives light gray.

    Args:
      image: uint8 [H, W, 3].
      prediction: bool [H, W].
      ground_truth: bool [H, W].

    Returns:
      uint8 [H, W, 3].
    """
    check_image(image)
    prediction = np.asarray(prediction).astype(bool)
    ground_truth = np.asarray(ground_truth).astype(bool)
    # Dim background, lighter where the prediction is correct
    gray = image.astype(np.float32).mean(axis=2, keepdims=True) * 0.45 + 20
    correct = (prediction & ground_truth)[..., None]
    out = np.repeat(np.where(correct, gray * 0.5 + 120, gray), 3, axis=2)
    for region, color in (
        (ground_truth & ~prediction, MISSED),
        (prediction & ~ground_truth, WRONG),
    ):
        out[region] += 0.85 * (np.asarray(color, np.float32) - out[region])
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def check_image(image: np.ndarray) -> None:
    """Raises ValueError for anything but a uint8 array [H, W, 3]."""
    if (
        not isinstance(image, np.ndarray)
        or image.ndim != 3
        or image.shape[2] != 3
        or image.dtype != np.uint8
    ):
        given = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ValueError(f"an image must be a NumPy array of uint8 [H, W, 3], RGB; got {given}")


@functools.lru_cache(maxsize=16)
def get_font(size: int) -> ImageFont.ImageFont:
    """Returns Pillow's default font with letters of `size` pixels, at least 8."""
    return ImageFont.load_default(max(8, size))


@functools.lru_cache(maxsize=64)
def _make_star(radius: float, color: Color) -> Image.Image:
    """Draws a five-pointed star with a white rim and smooth edges."""
    fine, side = 8, 2 * int(np.ceil(radius * 1.25)) + 1
    stamp = Image.new("RGBA", (side * fine, side * fine), (255, 255, 255, 0))
    draw = ImageDraw.Draw(stamp)
    angle = -np.pi / 2 + np.arange(10) * np.pi / 5
    for reach, fill in ((1.25, (255, 255, 255, 255)), (0.92, (*color, 255))):
        outer = radius * fine * reach
        # Wider notches than the star's make the rim equally wide all around.
        inner = outer * (0.55 if reach > 1 else 0.45)
        reaches = np.where(np.arange(10) % 2 == 0, outer, inner)
        corners = side * fine / 2 + np.stack([np.cos(angle), np.sin(angle)], 1) * reaches[:, None]
        draw.polygon([tuple(corner) for corner in corners], fill=fill)
    return stamp.resize((side, side), Image.Resampling.LANCZOS)


def _erode(mask: np.ndarray, times: int) -> np.ndarray:
    """Erodes a mask by the four neighbors, `times` over. Pixels outside the image are off."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask
