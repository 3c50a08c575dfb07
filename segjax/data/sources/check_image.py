"""Checking the bytes of one raw image, turning it upright, and converting it to PNG or JPEG."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from PIL import ImageOps

from segjax.data.sources.raw import SkipCounts, UnusableError
from segjax.images.encoding import JPEG_FORMATS, SIXTEEN_BITS, encode_image, encode_png
from segjax.images.intensities import Note, convert_to_eight_bits
from segjax.images.opening import ImageError, has_eight_bits, is_tiff, open_image
from segjax.images.orientation import decide_turn, read_orientation, turn_upright
from segjax.images.stored import choose_bands, read_stored


def check_image_bytes(
    data: bytes,
    path: str,
    *,
    annotated_size: tuple[int, int] | None = None,
    upright: bool = False,
    bands: Sequence[int] | None = None,
    counts: SkipCounts | None = None,
) -> tuple[bytes, int, int]:
    """Checks the content of an image file, see `read_image`.

    Args:
      data: content of the file.
      path: name of the file in error messages.
      annotated_size: see `read_image`.
      upright: see `read_image`.
      bands: see `read_image`.
      counts: see `read_image`.

    Returns:
      See `read_image`.

    Raises:
      UnusableError: see `read_image`.
    """
    if not data:
        raise UnusableError("image has zero size", f"{path} (an empty file)")
    own, notes = SkipCounts(), []
    choose = lambda orientation, hw: _choose_turn(
        orientation, hw, annotated_size, upright, path, own
    )
    try:
        with warnings.catch_warnings():
            # Pillow warns about odd metadata. Only the pixels matter here.
            warnings.simplefilter("ignore")
            result = None
            if bands is None and not is_tiff(data):
                result = _check_with_pillow(data, path, choose)
            if result is None:
                result = _convert_to_png(data, path, choose, bands, notes)
    except ImageError as error:
        reason = "image has zero size" if _is_png_of_zero_size(data) else error.reason
        raise UnusableError(reason, f"{path} ({error})") from error
    for note in notes:
        own.add_change(f"image: {note.reason}", f"{path} ({note.detail})")
    _report(own, counts)
    return result


def _check_with_pillow(
    data: bytes, path: str, choose: Callable[[int, tuple[int, int]], bool]
) -> tuple[bytes, int, int] | None:
    """Decodes an image of at most 8 bits, or a PNG, and encodes it again only if it must change.

    Returns:
      See `read_image`. None for other images.
    """
    with open_image(data, path) as opened:
        is_stored = opened.format in ("PNG", *JPEG_FORMATS)
        if getattr(opened, "n_frames", 1) > 1 and opened.format not in JPEG_FORMATS:
            return None
        if not has_eight_bits(opened) and not is_stored:
            return None
        # Of these Pillow decodes one byte of the two, which is enough to check them.
        is_deep = not has_eight_bits(opened) and opened.mode not in SIXTEEN_BITS
        hw, orientation = (opened.height, opened.width), read_orientation(opened)
        if is_deep and orientation != 1:
            return None
        turn = choose(orientation, hw)
        if not turn and opened.format in JPEG_FORMATS:
            # All bytes are read, but only an eighth of the pixels is computed along each side.
            opened.draft(None, (hw[1] // 8, hw[0] // 8))
        opened.load()
        if not turn and is_stored:
            return data, *hw
        image = ImageOps.exif_transpose(opened) if turn else opened
        return encode_image(image, opened.format), image.height, image.width


def _convert_to_png(
    data: bytes,
    path: str,
    choose: Callable[[int, tuple[int, int]], bool],
    bands: Sequence[int] | None,
    notes: list[Note],
) -> tuple[bytes, int, int]:
    """Converts an image of any kind to a PNG of 8 or 16 bits, see `read_image`."""
    stored = read_stored(data, path, notes, bands)
    pixels = choose_bands(stored, bands, path)
    if choose(stored.orientation, pixels.shape[:2]):
        pixels = turn_upright(pixels, stored.orientation)
    # 16 bits are stretched when they are decoded, like those of any other file.
    if pixels.dtype != np.uint16:
        pixels = convert_to_eight_bits(pixels, path, notes=notes, levels=65535)
    return encode_png(pixels), *pixels.shape[:2]


def _choose_turn(
    orientation: int,
    stored: tuple[int, int],
    annotated: tuple[int, int] | None,
    upright: bool,
    path: str,
    counts: SkipCounts,
) -> bool:
    """Decides if an image is turned upright, and reports the decision."""
    turn, is_guess = decide_turn(orientation, stored, annotated, upright)
    if turn:
        counts.add_change(
            "image is turned upright as its EXIF orientation asks",
            f"{path} (orientation {orientation})",
        )
    elif is_guess:
        counts.add_warning(
            "image carries EXIF orientation; its masks are taken to refer to stored pixels",
            f"{path} (orientation {orientation}; --option upright=True turns such images)",
        )
    return turn


def _report(own: SkipCounts, counts: SkipCounts | None) -> None:
    """Adds what is to be said about one image to the counts of all. Without these, warns."""
    if counts is not None:
        counts.merge(own)
        return
    for reason, examples in own.examples.items():
        warnings.warn(f"{examples[0]}: {reason}", stacklevel=3)


def _is_png_of_zero_size(data: bytes) -> bool:
    """Returns True for a PNG whose header declares no columns or no rows.

    Pillow refuses such files with several different errors.
    """
    is_png = data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24
    return is_png and 0 in (int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
