"""Draws sheets for logs and reports: grids of panels with titles, captions and a legend."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from segjax.viz.drawing import (
    BACKGROUND,
    FOREGROUND,
    INK,
    MISSED,
    WRONG,
    Color,
    draw_errors,
    draw_highlighted_mask,
    draw_prompts,
    get_font,
)
from segjax.viz.patches import fill_patches, hide_patches

SMALLEST_PANEL, LARGEST_PANEL, GAP = 256, 512, 10  # pixels
_FAINT = (120, 126, 136)
_CLICK_LEGEND = (
    ("missed", MISSED),
    ("false positive", WRONG),
    ("foreground click", FOREGROUND),
    ("background click", BACKGROUND),
)


def draw_interaction_sheet(
    rounds: Mapping[str, np.ndarray], counts: Sequence[int] | None = None
) -> np.ndarray:
    """Draws one row per image: clicks, ground truth, and prediction and errors after some clicks.

    Args:
      rounds: recorded rounds of `segjax.evaluation.interactive_rounds.play_rounds`: "image" uint8
        [K, S, S, 3], "size" [K, 2] (height, width of the content), "ground_truth" bool [K, S, S],
        "points" [K, N, 2], "labels" [K, N], "predictions" bool [K, N, S, S], "iou" [K, N].
      counts: numbers of clicks to show. Default: the first and the last.

    Returns:
      uint8 [H, W, 3]. Small images are enlarged.

    Raises:
      ValueError: A count beyond the number of clicks.
    """
    total = rounds["labels"].shape[1]
    counts = sorted({1, total}) if counts is None else list(counts)
    if any(not 1 <= count <= total for count in counts):
        raise ValueError(f"counts {counts} must lie in 1..{total}, the recorded number of clicks")
    side = int(np.clip(max(rounds["image"].shape[1:3]), SMALLEST_PANEL, LARGEST_PANEL))
    titles = ["clicks", "ground truth"]
    for count in counts:
        titles += [f"after {count} click{'s' * (count > 1)}", "errors"]
    rows = [
        _draw_interaction_row({name: value[k] for name, value in rounds.items()}, counts, side)
        for k in range(len(rounds["image"]))
    ]
    return lay_out_panels(rows, titles, side, _CLICK_LEGEND)


def draw_reconstruction_sheet(
    images: np.ndarray,
    predicted: np.ndarray,
    masked: np.ndarray,
    *,
    colors_from_original: bool = False,
) -> np.ndarray:
    """Draws one row per image: the masked input, its reconstruction, and the original.

    Args:
      images: uint8 [K, S, S, 3].
      predicted: uint8 [K, S, S, 3], of which the masked patches are shown.
      masked: bool [K, h, w], True for masked patches.
      colors_from_original: the model predicts normalized pixels, and the mean and contrast of each
        patch are the original's. The sheet says so.

    Returns:
      uint8 [H, W, 3]. Small images are enlarged.
    """
    side = int(np.clip(images.shape[1], SMALLEST_PANEL, LARGEST_PANEL))
    note = "mean and contrast of patches: original" if colors_from_original else ""
    rows = []
    for image, prediction, hidden in zip(images, predicted, masked, strict=True):
        panels = (hide_patches(image, hidden), fill_patches(image, prediction, hidden), image)
        panels = [_resize(panel, (side, side)) for panel in panels]
        captions = (f"{hidden.mean():.0%} masked", note, "")
        rows.append(list(zip(panels, captions, strict=True)))
    return lay_out_panels(rows, ["masked", "reconstructed", "original"], side)


def draw_classification_sheet(
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    names: Sequence[str] = (),
    *,
    columns: int = 4,
) -> np.ndarray:
    """Draws images with their class below. Wrong predictions are named and get a frame.

    Args:
      images: uint8 [K, S, S, 3], K at least 1.
      labels: int [K], true classes.
      predicted: int [K], predicted classes.
      names: class names. Classes without a name are shown by number.
      columns: largest number of images in a row.

    Returns:
      uint8 [H, W, 3]. Small images are enlarged.
    """
    side = int(np.clip(images.shape[1], 3 * SMALLEST_PANEL // 4, LARGEST_PANEL // 2))
    get_name = lambda label: names[label] if label < len(names) else str(label)
    panels = []
    for image, label, prediction in zip(images, labels.tolist(), predicted.tolist(), strict=True):
        panel, caption = _resize(image, (side, side)), get_name(label)
        # A frame of 4 pixels marks a wrong prediction.
        if prediction != label:
            frame = np.pad(np.zeros((side - 8, side - 8), bool), 4, constant_values=True)
            framed = np.where(frame[..., None], np.array(WRONG, np.uint8), np.asarray(panel))
            panel, caption = Image.fromarray(framed), f"{caption}, predicted {get_name(prediction)}"
        panels.append((panel, caption))
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return lay_out_panels(rows, [""] * columns, side, [("wrong", WRONG)])


def lay_out_panels(
    rows: list[list[tuple[Image.Image, str]]],
    titles: list[str],
    side: int,
    legend: Sequence[tuple[str, Color]] = (),
) -> np.ndarray:
    """Arranges panels in a grid on white.

    Args:
      rows: (panel, caption below it) of each cell.
      titles: titles of the columns.
      side: width of a column in pixels.
      legend: (name, RGB color) at the bottom.

    Returns:
      uint8 [H, W, 3].
    """
    text = max(15, side // 17)
    head, line = round(1.9 * text), round(1.7 * text)
    heights = [max(panel.height for panel, _ in row) + line for row in rows]
    width = GAP + len(titles) * (side + GAP)
    height = head + sum(heights) + GAP * len(rows) + line * bool(legend)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), get_font(text)

    # Titles
    for column, title in enumerate(titles):
        draw.text((GAP + column * (side + GAP), head / 2), title, INK, font, anchor="lm")

    # Panels and captions
    top = head
    for row, row_height in zip(rows, heights, strict=True):
        for column, (panel, caption) in enumerate(row):
            left = GAP + column * (side + GAP)
            sheet.paste(panel, (left, top))
            draw.text((left, top + panel.height + line / 2), caption, _FAINT, font, anchor="lm")
        top += row_height + GAP

    # Legend
    left = GAP
    for name, color in legend:
        draw.rounded_rectangle((left, top, left + text, top + text), text / 4, fill=color)
        draw.text((left + 1.5 * text, top + text / 2), name, INK, font, anchor="lm")
        left += 3 * text + font.getlength(name)
    return np.asarray(sheet)


def _draw_interaction_row(
    rounds: dict[str, np.ndarray], counts: Sequence[int], side: int
) -> list[tuple[Image.Image, str]]:
    """Draws the panels of one image, with their captions."""
    height, width = (int(x) for x in rounds["size"])
    scale = side / max(rounds["image"].shape[:2])
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = np.asarray(_resize(rounds["image"][:height, :width], shape))

    def enlarge(mask):
        gray = Image.fromarray(mask[:height, :width].astype(np.uint8) * 255)
        return np.asarray(gray.resize(shape, Image.Resampling.BILINEAR)) > 127

    # Clicks and ground truth
    points, labels = rounds["points"], rounds["labels"]
    ground_truth = enlarge(rounds["ground_truth"])
    clicks = int((labels >= 0).sum())
    share = rounds["ground_truth"].sum() / (height * width)
    panels = [
        (
            draw_prompts(image, points, labels, scale=scale, numbers=True),
            f"{clicks} click{'s' * (clicks != 1)}",
        ),
        (
            draw_highlighted_mask(image, ground_truth, FOREGROUND),
            f"{100 * share:.1f}% of the image",
        ),
    ]

    # Prediction and errors after some clicks
    for count in counts:
        prediction = enlarge(rounds["predictions"][count - 1])
        panel = draw_highlighted_mask(image, prediction)
        panel = draw_prompts(panel, points[:count], labels[:count], scale=scale)
        panels.append((panel, f"IoU {rounds['iou'][count - 1]:.2f}"))
        panels.append((draw_errors(image, prediction, ground_truth), ""))
    return [(Image.fromarray(panel), caption) for panel, caption in panels]


def _resize(image: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Resizes an image to (width, height), bicubic."""
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
