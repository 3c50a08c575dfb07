"""Images side by side, and heat maps over images, for notebooks."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from segjax.viz.sheets import lay_out_panels

# From dark blue over green to yellow: equal steps look equal
_STOPS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]])


def strip(
    images: Sequence[np.ndarray | Image.Image],
    captions: Sequence[str] = (),
    *,
    columns: int = 4,
    side: int = 240,
) -> Image.Image:
    """Arranges images in rows, with a caption below each.

    Args:
      images: uint8 [H, W, 3] of any sizes, or Pillow's.
      captions: one per image. Empty: none.
      columns: images in a row.
      side: longer side of a panel in pixels.

    Returns:
      The sheet, which a notebook displays.

    Raises:
      ValueError: no image, or another number of captions.
    """
    if not len(images) or (captions and len(captions) != len(images)):
        raise ValueError(
            f"{len(images)} images and {len(captions)} captions; expected one for each"
        )
    cells = []
    for index, image in enumerate(images):
        panel = image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))
        scale = side / max(panel.size)
        size = (max(1, round(panel.width * scale)), max(1, round(panel.height * scale)))
        cells.append((panel.convert("RGB").resize(size), captions[index] if captions else ""))
    columns = min(columns, len(cells))
    blank = (Image.new("RGB", (1, 1), "white"), "")
    cells += [blank] * (-len(cells) % columns)
    rows = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    return Image.fromarray(lay_out_panels(rows, [""] * columns, side))


def draw_heat_map(image: np.ndarray, values: np.ndarray, opacity: float = 0.6) -> np.ndarray:
    """Draws a map of values over an image, from dark blue (lowest) to yellow (highest).

    Args:
      image: uint8 [H, W, 3].
      values: float [h, w], resized to the image. A constant map is dark.
      opacity: of the map, 0..1.

    Returns:
      uint8 [H, W, 3].
    """
    values = np.asarray(values, np.float32)
    spread = float(values.max() - values.min())
    scaled = (values - values.min()) / spread if spread > 0 else np.zeros_like(values)
    height, width = image.shape[:2]
    resized = np.asarray(Image.fromarray(scaled).resize((width, height), Image.BILINEAR))
    position = np.clip(resized, 0, 1) * (len(_STOPS) - 1)
    low = np.minimum(position.astype(int), len(_STOPS) - 2)
    share = (position - low)[..., None]
    colors = _STOPS[low] * (1 - share) + _STOPS[low + 1] * share
    return (image * (1 - opacity) + colors * opacity + 0.5).astype(np.uint8)
