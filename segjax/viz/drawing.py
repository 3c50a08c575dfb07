"""Pictures of masks and prompts: uint8 RGB arrays in, uint8 RGB arrays out, drawn with NumPy and Pillow."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours, which stay apart for colour-blind eyes, lightened where they vanish on dark pictures.
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
_CLICK_LEGEND = (
    ("missed", MISSED),
    ("wrongly covered", WRONG),
    ("click on the object", FOREGROUND),
    ("click off it", BACKGROUND),
)
_INK, _FAINT = (40, 44, 52), (120, 126, 136)
_SMALLEST_PANEL, _LARGEST_PANEL, _GAP = 256, 512, 10


def overlay(
    image: np.ndarray,
    masks: np.ndarray,
    colors: Sequence[tuple[int, int, int]] = PALETTE,
    *,
    opacity: float = 0.45,
    outline: int = 1,
) -> np.ndarray:
    """Masks laid over an image, each in its colour with a solid outline; the smaller lie above the larger.

    Args:
      image: uint8 [H, W, 3].
      masks: bool [M, H, W], or one mask [H, W].
      colors: RGB, 0..255; mask m gets colors[m % len(colors)].
      opacity: of the mask's inside, 0..1.
      outline: width in pixels of the outline, inside the mask's edge; 0 for none.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: image and masks do not fit each other.
    """
    _check_image(image)
    masks = np.asarray(masks).astype(bool)
    masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(
            f"masks {masks.shape} do not fit an image {image.shape}; expected [M, H, W] or [H, W]"
        )
    out = image.astype(np.float32)
    for index in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        mask, color = masks[index], np.asarray(colors[index % len(colors)], np.float32)
        out[mask] += opacity * (color - out[mask])
        if outline:
            out[mask & ~_eroded(mask, outline)] = color
    return np.round(out).astype(np.uint8)


def label_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    colors: Sequence[tuple[int, int, int]] = PALETTE,
    *,
    opacity: float = 0.45,
) -> np.ndarray:
    """A label map laid over an image: each number in its colour, with a solid line where it borders on another.

    Args:
      image: uint8 [H, W, 3].
      labels: int [H, W]; 0 shows the image, n > 0 gets colors[(n - 1) % len(colors)]. opacity: of the inside, 0..1.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: image and labels do not fit each other.
    """
    _check_image(image)
    if labels.shape != image.shape[:2]:
        raise ValueError(
            f"labels {labels.shape} do not fit an image {image.shape}; expected [H, W]"
        )
    border = np.zeros(labels.shape, bool)
    for border_of, along in (
        (border, labels),
        (border.T, labels.T),
    ):  # both sides of every change, down and across
        changes = along[:-1] != along[1:]
        border_of[:-1] |= changes
        border_of[1:] |= changes
    # In 256ths and 16 bits: pictures of many megapixels should not need many times their size.
    weight = np.where(border, 256, round(256 * opacity)).astype(np.uint16) * (labels > 0)
    color = np.asarray(colors, np.uint16)[(labels - 1) % len(colors)]
    return ((image * (256 - weight[..., None]) + color * weight[..., None] + 128) >> 8).astype(
        np.uint8
    )


def draw_prompts(
    image: np.ndarray,
    points: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    *,
    scale: float = 1.0,
    radius: float | None = None,
    numbers: bool = False,
) -> np.ndarray:
    """Clicks as stars, green on the object and red off it, and boxes as green frames.

    Args:
      image: uint8 [H, W, 3], `scale` times as large as the frame of the coordinates.
      points: [N, 2], (x, y) pixel indices, so that (0, 0) is the middle of the first pixel.
      labels: [N], 1 foreground, 0 background, negative not drawn; all foreground if None.
      boxes: [K, 4] or [4], x1 y1 x2 y2 in continuous pixel edges.
      scale: pixels of `image` per pixel of the coordinates.
      radius: of a star in pixels of `image`; by default in proportion to it.
      numbers: writes beside each click which one it is, from 1.

    Returns:
      uint8 [H, W, 3], a new array.
    """
    _check_image(image)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    size = max(image.shape[:2])
    for x1, y1, x2, y2 in np.asarray([] if boxes is None else boxes, float).reshape(-1, 4) * scale:
        draw.rectangle(
            (x1, y1, x2 - 1, y2 - 1), outline=FOREGROUND, width=max(1, round(size / 200))
        )
    points = np.asarray([] if points is None else points, float).reshape(-1, 2)
    labels = np.ones(len(points), int) if labels is None else np.asarray(labels).reshape(-1)
    if len(labels) != len(points):
        raise ValueError(
            f"{len(points)} points but {len(labels)} labels; expected one label a point"
        )
    radius = radius or max(4.0, size / 32)
    # In reverse, so that the first clicks lie on top.
    for order in range(len(points) - 1, -1, -1):
        if labels[order] < 0:
            continue
        x, y = (points[order] + 0.5) * scale
        stamp = _star(radius, FOREGROUND if labels[order] > 0 else BACKGROUND)
        picture.paste(stamp, (round(x - stamp.width / 2), round(y - stamp.height / 2)), stamp)
        if numbers:
            font = _font(round(1.7 * radius))
            at = (x + 0.9 * radius, y - 0.9 * radius)
            draw.text(
                at, str(order + 1), "white", font, anchor="lm", stroke_width=2, stroke_fill=_INK
            )
    return np.asarray(picture)


def spotlight(
    image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int] = PALETTE[0]
) -> np.ndarray:
    """One mask in the image's own colours with a coloured outline, all else grey and dim: legible on any picture.

    Args:
      image: uint8 [H, W, 3].
      mask: bool [H, W].
      color: RGB of the outline.

    Returns:
      uint8 [H, W, 3].
    """
    _check_image(image)
    mask = np.asarray(mask).astype(bool)
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    dim = (0.5 * (0.8 * grey + 0.2 * image) + 15).astype(np.uint8)
    return overlay(np.where(mask[..., None], image, dim), mask, [color], opacity=0.15, outline=3)


def error_map(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """A dimmed grey image where missed pixels are blue, wrongly covered ones orange, and rightly covered ones light.

    Args:
      image: uint8 [H, W, 3].
      prediction, truth: bool [H, W].

    Returns:
      uint8 [H, W, 3].
    """
    _check_image(image)
    prediction, truth = np.asarray(prediction).astype(bool), np.asarray(truth).astype(bool)
    grey = image.astype(np.float32).mean(axis=2, keepdims=True) * 0.45 + 20
    out = np.repeat(np.where((prediction & truth)[..., None], grey * 0.5 + 120, grey), 3, axis=2)
    for region, color in ((truth & ~prediction, MISSED), (prediction & ~truth, WRONG)):
        out[region] += 0.85 * (np.asarray(color, np.float32) - out[region])
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def interaction_sheet(
    pictures: Mapping[str, np.ndarray], counts: Sequence[int] | None = None
) -> np.ndarray:
    """One row an image: its clicks, the truth, and the answer and its errors after each of some counts of clicks.

    Args:
      pictures: as `segjax.evaluation.interactive` keeps them: image uint8 [K, S, S, 3], size [K, 2] (h, w of the
        content), truth bool [K, S, S], points [K, N, 2], labels [K, N], answers bool [K, N, S, S], iou [K, N].
      counts: numbers of clicks to show; the first and the last by default.

    Returns:
      uint8 [H, W, 3]; small images are enlarged so that details can be seen.
    """
    total = pictures["labels"].shape[1]
    counts = sorted({1, total}) if counts is None else list(counts)
    if any(not 1 <= count <= total for count in counts):
        raise ValueError(
            f"counts {counts} must lie in 1..{total}, the number of clicks that were played"
        )
    side = int(np.clip(max(pictures["image"].shape[1:3]), _SMALLEST_PANEL, _LARGEST_PANEL))
    titles = ["clicks", "truth"]
    for count in counts:
        titles += [f"after {count} click{'s' * (count > 1)}", "errors"]
    rows = [
        _interaction_row({name: value[k] for name, value in pictures.items()}, counts, side)
        for k in range(len(pictures["image"]))
    ]
    return _lay_out(rows, titles, side, _CLICK_LEGEND)


def masked_picture(
    image: np.ndarray, masked: np.ndarray, color: tuple[int, int, int] = (128, 128, 128)
) -> np.ndarray:
    """An image with some of its patches painted over.

    Args:
      image: uint8 [H, W, 3].
      masked: bool [h, w], True for the patches to hide; h and w divide H and W.
      color: RGB of the paint.

    Returns:
      uint8 [H, W, 3], a new array.

    Raises:
      ValueError: the grid of patches does not divide the image.
    """
    return _patchwork(image, np.broadcast_to(np.array(color, np.uint8), np.shape(image)), masked)


def completed_picture(image: np.ndarray, predicted: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """An image whose masked patches are those of a prediction, uint8 [H, W, 3] as the image; as `masked_picture`."""
    return _patchwork(image, predicted, masked)


def _patchwork(image: np.ndarray, other: np.ndarray, masked: np.ndarray) -> np.ndarray:
    _check_image(image)
    height, width = image.shape[:2]
    if masked.ndim != 2 or height % masked.shape[0] or width % masked.shape[1]:
        raise ValueError(
            f"a grid {masked.shape} of patches does not divide an image of {height} x {width} pixels"
        )
    pixels = masked.repeat(height // masked.shape[0], axis=0).repeat(
        width // masked.shape[1], axis=1
    )
    return np.where(pixels[..., None], other, image)


def reconstruction_sheet(
    images: np.ndarray, predicted: np.ndarray, masked: np.ndarray
) -> np.ndarray:
    """One row a picture: what an autoencoder saw, what it made of it, and the original.

    Args:
      images, predicted: uint8 [K, S, S, 3]; of the latter, the masked patches are shown beside the seen ones.
      masked: bool [K, h, w].

    Returns:
      uint8 [H, W, 3]; small pictures are enlarged.
    """
    side = int(np.clip(images.shape[1], _SMALLEST_PANEL, _LARGEST_PANEL))
    enlarged = lambda picture: Image.fromarray(picture).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    rows = []
    for image, guess, hidden in zip(images, predicted, masked, strict=True):
        panels = (masked_picture(image, hidden), completed_picture(image, guess, hidden), image)
        captions = (f"{hidden.mean():.0%} masked", "", "")
        rows.append(
            [(enlarged(panel), caption) for panel, caption in zip(panels, captions, strict=True)]
        )
    return _lay_out(rows, ["masked", "reconstructed", "original"], side)


def classification_sheet(
    images: np.ndarray,
    given: np.ndarray,
    named: np.ndarray,
    names: Sequence[str] = (),
    *,
    columns: int = 4,
) -> np.ndarray:
    """Pictures with their class below, and what a model called them where that is another; these have a frame.

    Args:
      images: uint8 [K, S, S, 3], K at least 1.
      given, named: int [K], classes.
      names: of the classes; the numbers where there is none.

    Returns:
      uint8 [H, W, 3]; small pictures are enlarged.
    """
    side = int(np.clip(images.shape[1], 3 * _SMALLEST_PANEL // 4, _LARGEST_PANEL // 2))
    called = lambda label: names[label] if label < len(names) else str(label)
    panels = []
    for image, label, answer in zip(images, given.tolist(), named.tolist(), strict=True):
        panel = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
        if answer == label:
            panels.append((Image.fromarray(panel), called(label)))
        else:
            frame = np.pad(np.zeros((side - 8, side - 8), bool), 4, constant_values=True)
            panel = np.where(frame[..., None], np.array(WRONG, np.uint8), panel)
            panels.append((Image.fromarray(panel), f"{called(label)}, named {called(answer)}"))
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return _lay_out(rows, [""] * columns, side, [("named wrongly", WRONG)])


def _interaction_row(
    picture: dict[str, np.ndarray], counts: Sequence[int], side: int
) -> list[tuple[Image.Image, str]]:
    """Panels and captions of one image."""
    height, width = (int(x) for x in picture["size"])
    scale = side / max(picture["image"].shape[:2])
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(
        Image.fromarray(picture["image"][:height, :width]).resize(shape, Image.Resampling.BICUBIC)
    )

    def enlarged(mask):
        grey = Image.fromarray(mask[:height, :width].astype(np.uint8) * 255)
        return np.asarray(grey.resize(shape, Image.Resampling.BILINEAR)) > 127

    points, labels, truth = picture["points"], picture["labels"], enlarged(picture["truth"])
    clicks = int((labels >= 0).sum())
    panels = [
        (
            draw_prompts(image, points, labels, scale=scale, numbers=True),
            f"{clicks} click{'s' * (clicks != 1)}",
        ),
        (
            spotlight(image, truth, FOREGROUND),
            f"{100 * picture['truth'].sum() / (height * width):.1f}% of the image",
        ),
    ]
    for count in counts:
        answer = enlarged(picture["answers"][count - 1])
        shown = spotlight(image, answer)
        panels.append(
            (
                draw_prompts(shown, points[:count], labels[:count], scale=scale),
                f"IoU {picture['iou'][count - 1]:.2f}",
            )
        )
        panels.append((error_map(image, answer, truth), ""))
    return [(Image.fromarray(panel), caption) for panel, caption in panels]


def _lay_out(
    rows: list[list[tuple[Image.Image, str]]],
    titles: list[str],
    side: int,
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> np.ndarray:
    """Panels in a grid on white: titles above, a caption below each, and names of colours at the bottom."""
    text = max(15, side // 17)
    head, line = round(1.9 * text), round(1.7 * text)
    heights = [max(panel.height for panel, _ in row) + line for row in rows]
    width = _GAP + len(titles) * (side + _GAP)
    sheet = Image.new(
        "RGB", (width, head + sum(heights) + _GAP * len(rows) + line * bool(legend)), "white"
    )
    draw, font = ImageDraw.Draw(sheet), _font(text)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (side + _GAP), head / 2), title, _INK, font, anchor="lm")
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, (panel, caption) in enumerate(row):
            left = _GAP + column * (side + _GAP)
            sheet.paste(panel, (left, top))
            draw.text((left, top + panel.height + line / 2), caption, _FAINT, font, anchor="lm")
        top += height + _GAP
    left = _GAP
    for name, color in legend:
        draw.rounded_rectangle((left, top, left + text, top + text), text / 4, fill=color)
        draw.text((left + 1.5 * text, top + text / 2), name, _INK, font, anchor="lm")
        left += 3 * text + font.getlength(name)
    return np.asarray(sheet)


@functools.lru_cache(maxsize=64)
def _star(radius: float, color: tuple[int, int, int]) -> Image.Image:
    """A five-pointed star with a white rim, drawn large and reduced so that its edges are smooth."""
    fine, side = 8, 2 * int(np.ceil(radius * 1.25)) + 1
    stamp = Image.new("RGBA", (side * fine, side * fine), (255, 255, 255, 0))
    draw = ImageDraw.Draw(stamp)
    angle = -np.pi / 2 + np.arange(10) * np.pi / 5
    for reach, fill in ((1.25, (255, 255, 255, 255)), (0.92, (*color, 255))):
        outer = radius * fine * reach
        # The rim needs fatter notches than the star to be equally wide all around.
        inner = outer * (0.55 if reach > 1 else 0.45)
        reaches = np.where(np.arange(10) % 2 == 0, outer, inner)
        corners = side * fine / 2 + np.stack([np.cos(angle), np.sin(angle)], 1) * reaches[:, None]
        draw.polygon([tuple(corner) for corner in corners], fill=fill)
    return stamp.resize((side, side), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(max(8, size))


def _eroded(mask: np.ndarray, times: int) -> np.ndarray:
    """Pixels whose neighbours above, below, left and right are in the mask too, `times` over; outside is off."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def _check_image(image: np.ndarray) -> None:
    if (
        not isinstance(image, np.ndarray)
        or image.ndim != 3
        or image.shape[2] != 3
        or image.dtype != np.uint8
    ):
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ValueError(f"an image must be a NumPy array of uint8 [H, W, 3], RGB; got {found}")
