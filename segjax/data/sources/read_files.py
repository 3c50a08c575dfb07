"""Reading image files, label maps and masks of raw data, with every way they can be broken."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from segjax.data.sources.check_image import check_image_bytes
from segjax.data.sources.raw import SkipCounts, UnusableError
from segjax.images.labels import read_label_values
from segjax.images.opening import ImageError, UnsupportedImageError
from segjax.masks import EncodedRegion, compute_mask_box, encode_label_map, encode_mask

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the image files of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def read_image(
    path: pathlib.Path,
    *,
    annotated_size: tuple[int, int] | None = None,
    upright: bool = False,
    bands: Sequence[int] | None = None,
    counts: SkipCounts | None = None,
) -> tuple[bytes, int, int]:
    """Reads an image file and checks that all of its pixels can be decoded.

    A truncated file is found here, and not in the middle of a training run.

    An image with an EXIF orientation is turned upright if only the turned image has the annotated
    size, and stays as it is stored if only the stored one has. Where both have it, masks are taken
    to refer to the stored pixels, and `counts` receives a warning.

    Args:
      path: of the file.
      annotated_size: (height, width) of the image according to its annotations or label map, or
        None if it is unknown.
      upright: turn images with an EXIF orientation also where the annotated size does not tell.
      bands: numbers from 1 of the one or three channels to read, for images of more than three.
      counts: counts images that were changed or look wrong. None warns instead.

    Returns:
      A triple of the bytes of a PNG or JPEG file, the height and the width in pixels. Other
      formats are converted to PNG, of 8 or 16 bits.

    Raises:
      UnusableError: the file is missing, empty, truncated, or not an image that can be read.
    """
    if not path.is_file():
        raise UnusableError("image file is missing", str(path))
    return check_image_bytes(
        path.read_bytes(),
        str(path),
        annotated_size=annotated_size,
        upright=upright,
        bands=bands,
        counts=counts,
    )


def read_label_map(path: pathlib.Path, description: str) -> np.ndarray:
    """Reads a label map or a mask image.

    Args:
      path: of the file, a PNG, TIFF, BMP or GIF.
      description: of the file in error messages, such as "label map".

    Returns:
      Integers or bool [H, W], the stored values. Floats that are whole numbers become int64.

    Raises:
      UnusableError: the file is missing, truncated, has several channels or pages, or numbers that
        are not whole.
    """
    if not path.is_file():
        raise UnusableError(f"{description} is missing", str(path))
    try:
        return read_label_values(path.read_bytes(), str(path))
    except UnsupportedImageError as error:
        raise UnusableError(f"{description} is {error.reason}", str(error)) from error
    except ImageError as error:
        reason = f"{description} is truncated or not an image file"
        raise UnusableError(reason, f"{path} ({error})") from error


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
