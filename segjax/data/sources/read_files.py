"""Reading image files, label maps and masks of raw data, with every way they can be broken."""

import io
import pathlib
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from segjax.data.sources.raw import UnusableError
from segjax.images.encoding import JPEG_FORMATS, SIXTEEN_BITS, encode_image
from segjax.masks import EncodedRegion, compute_mask_box, encode_label_map, encode_mask

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
_EXIF_ORIENTATION = 0x0112


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the image files of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def read_image(path: pathlib.Path, *, upright: bool = False) -> tuple[bytes, int, int]:
    """Reads an image file and checks that all of its pixels can be decoded.

    A truncated file is found here, and not in the middle of a training run.

    Args:
      path: of the file.
      upright: rotate and mirror the image as its EXIF orientation asks. Use it only for images
        without masks, because masks refer to the stored pixels.

    Returns:
      A triple of the bytes of a PNG or JPEG file, the height and the width in pixels. Other
      formats are converted to PNG.

    Raises:
      UnusableError: the file is missing, empty, truncated, or not an image.
    """
    if not path.is_file():
        raise UnusableError("image file is missing", str(path))
    return check_image_bytes(path.read_bytes(), str(path), upright=upright)


def check_image_bytes(data: bytes, path: str, *, upright: bool = False) -> tuple[bytes, int, int]:
    """Checks the content of an image file, see `read_image`.

    Args:
      data: content of the file.
      path: name of the file in error messages.
      upright: see `read_image`.

    Returns:
      See `read_image`.

    Raises:
      UnusableError: see `read_image`.
    """
    if not data:
        raise UnusableError("image has zero size", f"{path} (an empty file)")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as opened:
            # Pillow warns about odd metadata. Only the pixels matter here.
            warnings.simplefilter("ignore")
            if 0 in opened.size:
                raise UnusableError(
                    "image has zero size", f"{path} ({opened.width} x {opened.height})"
                )
            opened.load()
            if opened.mode.startswith(("I", "F")) and opened.mode not in SIXTEEN_BITS:
                raise UnusableError(
                    "image has more than 16 bits per channel", f"{path} (Pillow mode {opened.mode})"
                )
            turn = upright and opened.getexif().get(_EXIF_ORIENTATION, 1) != 1
            image = ImageOps.exif_transpose(opened) if turn else opened
            if image is not opened or opened.format not in ("PNG", *JPEG_FORMATS):
                data = encode_image(image, opened.format)
            return data, image.height, image.width
    except UnusableError:
        raise
    # Pillow raises OSError, SyntaxError, ValueError, DecompressionBombError and others.
    except Exception as error:
        empty = _is_png_of_zero_size(data)
        reason = "image has zero size" if empty else "image is truncated or not an image file"
        raise UnusableError(reason, f"{path} ({error})") from error


def _is_png_of_zero_size(data: bytes) -> bool:
    """Returns True for a PNG whose header declares no columns or no rows.

    Pillow refuses such files with several different errors.
    """
    is_png = data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24
    return is_png and 0 in (int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))


def read_label_map(path: pathlib.Path, description: str) -> np.ndarray:
    """Reads a label map or a mask image.

    Args:
      path: of the file.
      description: of the file in error messages, such as "label map".

    Returns:
      Integers [H, W], the stored values.

    Raises:
      UnusableError: the file is missing, truncated, or has several channels.
    """
    if not path.is_file():
        raise UnusableError(f"{description} is missing", str(path))
    try:
        with Image.open(path) as opened:
            if opened.mode in ("RGB", "RGBA", "LA", "F", "CMYK"):
                raise UnusableError(
                    f"{description} is not a single-channel image",
                    f"{path} (Pillow mode {opened.mode})",
                )
            return np.asarray(opened)
    except UnusableError:
        raise
    except Exception as error:
        raise UnusableError(
            f"{description} is truncated or not an image file", f"{path} ({error})"
        ) from error


def check_size(
    array: np.ndarray, height: int, width: int, description: str, path: pathlib.Path
) -> None:
    """Raises UnusableError unless a map has the size of its image.

    Args:
      array: [H, W].
      height: of the image, in pixels.
      width: of the image, in pixels.
      description: of the map in error messages.
      path: of the map.
    """
    if array.shape != (height, width):
        found = " x ".join(map(str, array.shape))
        raise UnusableError(
            f"{description} is of another size than its image",
            f"{path} ({found} for an image of {height} x {width})",
        )


def build_object(
    mask: np.ndarray, identity: int, category: int = 0, **fields: Any
) -> dict[str, Any]:
    """Builds the fields of one object from its mask: exact box, area and run-length encoding.

    Args:
      mask: bool [H, W], not empty.
      identity: id of the object.
      category: 0..K-1.
      fields: further fields, or other values of these.
    """
    return {
        "id": identity,
        "box": compute_mask_box(mask),
        "category": category,
        "crowd": False,
        "area": float(np.count_nonzero(mask)),
        "rle": encode_mask(mask),
        **fields,
    }


def build_objects_from_map(
    labels: np.ndarray, category: int = 0, **fields: Any
) -> list[dict[str, Any]]:
    """Builds one object per value above 0 of a label map. Disconnected parts stay one object.

    Args:
      labels: int [H, W]. The values become the ids.
      category: 0..K-1, of all objects.
      fields: further fields of all objects.
    """
    return [build_region(region, category, **fields) for region in encode_label_map(labels)]


def build_region(region: EncodedRegion, category: int = 0, **fields: Any) -> dict[str, Any]:
    """Builds the fields of one object from a region of a label map, whose value becomes the id."""
    row = {"id": region.value, "box": region.box, "category": category, "crowd": False}
    return row | {"area": float(region.area), "rle": region.rle} | fields
