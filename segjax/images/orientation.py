"""EXIF orientation: how a camera was held, and turning pixels upright as viewers do."""

from __future__ import annotations

import numpy as np
from PIL import Image

EXIF_ORIENTATION = 0x0112
# Orientation that turns back
_INVERSE = {6: 8, 8: 6}


def read_orientation(image: Image.Image) -> int:
    """Reads the EXIF orientation of an opened Pillow image.

    Returns:
      1 to 8. It is 1, which means upright, for images that declare none or an invalid one.
    """
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    # Metadata that is damaged must not cost the pixels, and Pillow raises anything for it.
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels upright.

    Args:
      pixels: [H, W, ...] as stored.
      orientation: EXIF orientation, 1 to 8.

    Returns:
      A view [H, W, ...], or [W, H, ...] for the orientations 5 to 8.
    """
    # 5 to 8 exchange rows and columns.
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flip_y = orientation in (3, 4, 7, 8)
    flip_x = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Inverts `turn_upright`."""
    return turn_upright(pixels, _INVERSE.get(orientation, orientation))


def turn_size(hw: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Returns the (height, width) that an image of a stored size has when it is upright."""
    return (hw[1], hw[0]) if orientation >= 5 else (hw[0], hw[1])


def decide_turn(
    orientation: int, stored: tuple[int, int], annotated: tuple[int, int] | None, upright: bool
) -> tuple[bool, bool]:
    """Decides if an image with annotations is turned upright.

    The annotated size tells which pixels the annotations refer to, if it differs between the
    stored and the turned image.

    Args:
      orientation: EXIF orientation of the image, 1 to 8.
      stored: (height, width) of the stored pixels.
      annotated: (height, width) that the annotations name, or None.
      upright: the user's choice where the sizes do not tell.

    Returns:
      If the image is turned, and if that is a guess about which the user should know.
    """
    if orientation == 1:
        return False, False
    turned = turn_size(stored, orientation)
    if annotated is not None and annotated != turned:
        return False, False
    if annotated is not None and turned != stored:
        return True, False
    return upright, not upright
