"""Reading TIFF files: any planar layout, 8 to 64 bits, several bands and pages.

tifffile reads gray, RGB and multi-band pages. Pillow reads palettes, CMYK, YCbCr and fewer than 8
bits, and the compressions that tifffile lacks (LZW, JPEG) where it does so correctly.
"""

from __future__ import annotations

import io
import itertools
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.images.intensities import Note, add_note
from segjax.images.opening import (
    READING_ERRORS,
    ImageError,
    UnsupportedImageError,
    check_pixel_count,
    get_raw_mode,
    make_damage_error,
    open_image,
)
from segjax.images.orientation import read_orientation, turn_back
from segjax.images.stored import StoredImage, convert_from_pillow, join_bytes, read_samples

# Photometric interpretations
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
# Pages that are not wider are rows of an image with as many bands.
_MOST_BANDS = 8
# Pages that are searched for one that is no thumbnail. A megabyte can hold a hundred thousand.
_MOST_PAGES = 1000
_COLOR_NAMES = {8: "CIELAB", 9: "ICCLAB", 32803: "a camera's raw sensor", 34892: "linear raw"}


def read_tiff(
    data: bytes, name: str, notes: list[Note] | None = None, bands: Sequence[int] | None = None
) -> StoredImage:
    """Reads the stored values of the first page of a TIFF file.

    Args:
      data: bytes of the file.
      name: of the image in messages.
      notes: list that receives notes, see `add_note`.
      bands: numbers from 1 of the channels that will be chosen. In a stack of gray pages they are
        numbers of pages.

    Raises:
      ImageError: damaged bytes, or a kind that cannot be read correctly. The message says why.
    """
    import tifffile

    # It logs two lines for each damaged page, which is reported once below.
    if (log := tifffile.logger()).level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            stack = _read_stack(file, name, bands)
            if stack is not None:
                return stack
            index, page = _choose_page(file, name, notes)
            _check_page(page, name)
            pixels = _read_page(page, name) if _is_for_tifffile(page) else None
            if pixels is None:
                return _read_with_pillow(data, name, index, page, notes)
            colors = _count_colors(page, name, notes)
            if colors == 3:
                pixels = _divide_by_alpha(pixels, page)
            return StoredImage(pixels, colors, _get_orientation(page))
    except ImageError:
        raise
    except (*READING_ERRORS, tifffile.TiffFileError) as error:
        raise make_damage_error(data, name, error) from error


def _choose_page(file: Any, name: str, notes: list[Note] | None) -> tuple[int, Any]:
    """Returns the first page that is no thumbnail, and its index."""
    pages = itertools.islice(file.pages, _MOST_PAGES)
    full = [index for index, page in enumerate(pages) if not page.is_reduced]
    if not full:
        raise UnsupportedImageError(
            f"{name}: the TIFF file holds thumbnails alone at its top level, as raw files of "
            "cameras do; convert it to an RGB TIFF first"
        )
    # ImageJ describes stacks of more than 4 GB by one page.
    further = max(len(file.pages) - _MOST_PAGES, 0)
    count = max(len(full) + further, int((file.imagej_metadata or {}).get("images", 1)))
    if count > 1:
        add_note(notes, name, "only the first page of several is read", f"1 of {count} pages")
    return full[0], file.pages[full[0]]


def _read_stack(file: Any, name: str, bands: Sequence[int] | None) -> StoredImage | None:
    """Reads pages as channels: an array [H, W, S] in H pages, or the pages that `bands` name.

    tifffile splits an array [H, W, S] of more than three bands into one page per row, unless it is
    told that the last axis holds samples.
    """
    page = file.pages[0]
    count = len(file.pages)
    if count == 1 or page.samplesperpixel > 1 or not _is_for_tifffile(page):
        return None
    shaped = file.shaped_metadata[0].get("shape", ()) if file.is_shaped else ()
    is_row = tuple(shaped) == (count, *page.shape) and page.shape[1] <= _MOST_BANDS < count
    if not is_row and bands is None:
        return None
    needed = count if is_row else min(count, max([1, *bands]))
    _check_page(page, name)
    check_pixel_count(page.imagelength, page.imagewidth, name, needed * page.dtype.itemsize)
    pages = [file.pages[index] for index in range(needed)]
    if any(other.shape != page.shape or other.dtype != page.dtype for other in pages):
        return None
    read = [_read_page(other, name) for other in pages]
    if any(pixels is None for pixels in read):
        return None
    if is_row:
        pixels = np.stack([pixels[:, :, 0] for pixels in read])
        return StoredImage(pixels, 0 if pixels.shape[2] != 3 else 3, _get_orientation(page))
    return StoredImage(np.concatenate(read, axis=2), 0, _get_orientation(page))


def _check_page(page: Any, name: str) -> None:
    """Raises ImageError for a page of more than two dimensions, too many pixels, or gaps."""
    if page.imagedepth > 1:
        raise UnsupportedImageError(
            f"{name}: the TIFF page is a volume of {page.imagedepth} slices"
        )
    itemsize = page.dtype.itemsize if page.dtype is not None else 1
    check_pixel_count(
        page.imagelength, page.imagewidth, name, max(1, page.samplesperpixel) * itemsize
    )
    missing = sum(count == 0 for count in page.databytecounts)
    if missing or not page.databytecounts:
        raise UnsupportedImageError(
            f"{name}: {missing or 'all'} of {len(page.databytecounts)} strips or tiles of the TIFF "
            "page are not in the file"
        )


def _is_for_tifffile(page: Any) -> bool:
    """Tests if a page has gray, RGB or other bands of complete bytes."""
    return (
        page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        and page.dtype is not None
        and page.bitspersample == 8 * page.dtype.itemsize
    )


def _read_page(page: Any, name: str) -> np.ndarray | None:
    """Reads a page [H, W, S] with tifffile. Returns None if it lacks the compression."""
    try:
        pixels = page.asarray()
    # Codecs of newer versions of Python are missing modules in older ones.
    except ImportError:
        return None
    except ValueError as error:
        if "imagecodecs" in str(error):
            return None
        raise
    planes, _, height, width, samples = page.shaped
    pixels = pixels.reshape(planes, height, width, samples)
    pixels = np.moveaxis(pixels, 0, 2).reshape(height, width, planes * samples)
    if page.photometric != _WHITE_IS_ZERO:
        return pixels
    if pixels.dtype.kind != "u":
        raise UnsupportedImageError(f"{name}: TIFF with {pixels.dtype} values of which 0 is white")
    return np.iinfo(pixels.dtype).max - pixels


def _count_colors(page: Any, name: str, notes: list[Note] | None) -> int:
    """Returns how many of the leading channels are the colors: 1, 3, or 0 if nobody can know."""
    samples = page.samplesperpixel
    extra = page.extrasamples
    if page.photometric == _RGB:
        unknown = sum(value == 0 for value in extra) or (samples - 3 if not extra else 0)
        if unknown > 0 and samples > 3:
            reason = "bands beyond red, green and blue are not used"
            add_note(notes, name, reason, f"{samples} bands; choose three with bands")
        return 3 if samples >= 3 else 0
    if samples == 1 + sum(value in (1, 2) for value in extra):
        return 1
    if samples == 3:
        reason = "three bands without declared colors are read as red, green and blue"
        add_note(notes, name, reason, "choose others with bands")
        return 3
    return 0


def _divide_by_alpha(pixels: np.ndarray, page: Any) -> np.ndarray:
    """Undoes the multiplication of colors by alpha, if the page declares it."""
    if page.samplesperpixel != 4 or tuple(page.extrasamples) != (1,) or pixels.dtype.kind != "u":
        return pixels
    highest = np.iinfo(pixels.dtype).max
    alpha = pixels[:, :, 3:].astype(np.float64)
    colors = pixels[:, :, :3] * (highest / np.maximum(alpha, 1))
    return np.minimum(colors + 0.5, highest).astype(pixels.dtype)


def _get_orientation(page: Any) -> int:
    value = page.tags.valueof(274, default=1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _read_with_pillow(
    data: bytes, name: str, index: int, page: Any, notes: list[Note] | None
) -> StoredImage:
    """Reads a page with Pillow if Pillow reads this kind correctly."""
    _check_pillow_reads(page, name)
    if page.photometric == _RGB:
        _count_colors(page, name, notes)
    with open_image(data, name) as image:
        image.seek(index)
        # Pillow turns TIFF images upright when it decodes them.
        orientation = read_orientation(image)
        raw = get_raw_mode(image.tile[0])
        if image.mode not in ("RGB", "RGBA") or ";16" not in raw:
            pixels, colors = convert_from_pillow(image, name, keep_alpha=True)
            if page.photometric == _WHITE_IS_ZERO and pixels.dtype == np.uint16:
                pixels = np.uint16(2**page.bitspersample - 1) - pixels
            return StoredImage(turn_back(pixels, orientation), colors, orientation)
    # libtiff delivers samples in the order of the machine, of which Pillow keeps one byte.
    high, low = "LB" if sys.byteorder == "little" else "BL"
    halves = (read_samples(data, name, raw[:-1] + order, index) for order in (high, low))
    pixels = _divide_by_alpha(join_bytes(*halves), page)
    return StoredImage(turn_back(pixels, orientation), 3, orientation)


def _check_pillow_reads(page: Any, name: str) -> None:
    """Raises ImageError, with the reason, for a page that Pillow would scramble or not open."""
    bits = page.bitspersample
    kind = f"{page.samplesperpixel} bands of {bits} bits"
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR):
        colors = _COLOR_NAMES.get(int(page.photometric), f"photometric {int(page.photometric)}")
        raise UnsupportedImageError(
            f"{name}: TIFF with the colors of {colors}; convert it to RGB first"
        )
    is_integer = page.dtype is None or page.dtype.kind in "bu"
    deep = isinstance(bits, tuple) or bits > 8
    is_gray = page.samplesperpixel == 1 and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    is_rgb = page.photometric == _RGB and page.planarconfig == 1 and bits == 16
    if not is_integer or (deep and not (is_gray and bits in (12, 16)) and not is_rgb):
        raise UnsupportedImageError(
            f"{name}: TIFF of {kind} with {_describe_compression(page)}, which needs another "
            "library: pip install imagecodecs, or save the file without compression or with deflate"
        )


def _describe_compression(page: Any) -> str:
    compression = getattr(page.compression, "name", str(page.compression))
    layout = "in separate planes" if page.planarconfig == 2 else "interleaved"
    return f"compression {compression}, {layout}"
