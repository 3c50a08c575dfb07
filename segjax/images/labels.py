"""Reading label maps and masks: images whose stored numbers are names of objects, not brightness.

Nothing is converted: palettes are not looked up, and TIFF files of which 0 is white are not
inverted.
"""

from __future__ import annotations

import io

import numpy as np

from segjax.images.encoding import SIXTEEN_BITS
from segjax.images.opening import (
    READING_ERRORS,
    ImageError,
    UnsupportedImageError,
    check_pixel_count,
    is_tiff,
    make_damage_error,
    open_image,
)

_NOT_SINGLE = "not a single-channel image"
_COLORS = ("RGB", "RGBA", "LA")


def read_label_values(data: bytes, name: str) -> np.ndarray:
    """Reads the stored numbers of a label map.

    Args:
      data: bytes of a PNG, TIFF, BMP or GIF file with one channel, or with equal ones, as editors
        save masks.
      name: of the file in error messages.

    Returns:
      [H, W], bool or integers. Floats that are whole numbers become int64.

    Raises:
      ImageError: damaged bytes, several channels or pages, or numbers that are not whole.
    """
    labels = _read_tiff_labels(data, name) if is_tiff(data) else _read_with_pillow(data, name)
    if labels.dtype.kind in "bui":
        return labels
    whole = labels.dtype.kind == "f" and np.isfinite(labels).all()
    whole = whole and bool((labels == np.rint(labels)).all() and np.abs(labels).max() < 2**53)
    if not whole:
        raise UnsupportedImageError(
            f"{name}: its values are {labels.dtype} and not all whole numbers; a label map holds "
            "the number of an object in each pixel",
            "not made of whole numbers",
        )
    return labels.astype(np.int64)


def _read_with_pillow(data: bytes, name: str, is_inverted: bool = False) -> np.ndarray:
    """Reads one channel with Pillow. `is_inverted` undoes what Pillow does where 0 is white."""
    with open_image(data, name) as image:
        mode = image.mode
        # A TIFF file that says how it was held would be turned. Masks refer to stored pixels.
        labels = np.asarray(image)
        if mode in _COLORS:
            labels = _take_equal_channel(labels, mode)
        elif mode not in ("1", "L", "P", "I", "F", *SIXTEEN_BITS):
            labels = None
        if labels is None:
            raise UnsupportedImageError(f"{name} (Pillow mode {mode})", _NOT_SINGLE)
    if mode in SIXTEEN_BITS:
        return labels.astype(np.uint16)
    if is_inverted and mode in ("1", "L"):
        return ~labels
    return labels


def _take_equal_channel(pixels: np.ndarray, mode: str) -> np.ndarray | None:
    """Returns the one channel of a gray image that was saved in color, or None if it has several.

    Args:
      pixels: uint8 [H, W, C].
      mode: Pillow's mode, of which an "A" at the end is an alpha channel.
    """
    colors, alpha = pixels, pixels[..., :0]
    if mode.endswith("A"):
        colors, alpha = pixels[..., :-1], pixels[..., -1:]
    is_gray = (colors == colors[..., :1]).all() and (alpha == 255).all()
    return colors[..., 0] if is_gray else None


def _read_tiff_labels(data: bytes, name: str) -> np.ndarray:
    """Reads the only page of a TIFF file with tifffile, or with Pillow if that lacks a codec."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            pages = len(file.pages)
            if pages > 1 or page.samplesperpixel > 1 or page.imagedepth > 1:
                detail = f"{pages} pages of {page.samplesperpixel} channels"
                raise UnsupportedImageError(f"{name} ({detail})", _NOT_SINGLE)
            itemsize = page.dtype.itemsize if page.dtype is not None else 1
            check_pixel_count(page.imagelength, page.imagewidth, name, itemsize)
            orientation = page.tags.valueof(274, default=1)
            if orientation != 1:
                raise UnsupportedImageError(
                    f"{name}: carries the orientation {orientation}, so it is unclear which pixels "
                    "its labels refer to; save it again without it",
                    "not clear about its orientation",
                )
            try:
                return page.asarray()
            except (ValueError, ImportError) as error:
                # tifffile lacks the codec.
                if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
                    raise
            return _read_with_pillow(data, name, is_inverted=page.photometric == 0)
    except ImageError:
        raise
    except (*READING_ERRORS, tifffile.TiffFileError) as error:
        raise make_damage_error(data, name, error) from error
