"""Annotations of SA-1B: the fields of one JSON, in which a broken mask costs only itself."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from segjax.data.sources.annotations.values import parse_whole_number
from segjax.data.sources.raw import UnusableError
from segjax.masks import RecordError, parse_rle


def parse_annotations(text: bytes, where: str) -> tuple[list[Any], tuple[int, int] | None]:
    """Returns the list "annotations" of a JSON, and the size of the image that they refer to.

    Args:
      text: content of the file.
      where: name of the image in error messages.

    Returns:
      A pair of the list and (height, width) in pixels, or None if "image" does not tell.

    Raises:
      UnusableError: the file is not JSON, or has no such list.
    """
    try:
        content = json.loads(text)
        found = content["annotations"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnusableError(
            "JSON is broken or has no annotations", f"{where} ({error!r})"
        ) from error
    if not isinstance(found, list):
        raise UnusableError(
            "JSON is broken or has no annotations", f"{where} ({type(found).__name__})"
        )
    image = content.get("image")
    image = image if isinstance(image, Mapping) else {}
    size = tuple(parse_whole_number(image.get(name)) for name in ("height", "width"))
    return found, None if None in size else size


def read_object(annotation: Any, index: int, height: int, width: int, where: str) -> dict[str, Any]:
    """Reads the fields of one object without decoding its mask.

    An image has about 100 masks of several megapixels, so decoding would take most of the time.

    Args:
      annotation: an entry of "annotations".
      index: of the entry, which is the id of a mask without one.
      height: of the image, in pixels.
      width: of the image, in pixels.
      where: name of the image in error messages.

    Returns:
      Fields of the object, see `segjax.data.records`.

    Raises:
      UnusableError: the run-length encoding is broken, empty or of another size, or a field has
        another type.
    """
    fields = annotation if isinstance(annotation, Mapping) else {}
    name = f"{where}, mask {str(fields.get('id', index))[:40]}"
    segmentation = fields.get("segmentation")
    try:
        runs, *size = parse_rle(segmentation, name)
        rle = segmentation["counts"]
        # An uncompressed list would be another format, and is not what records hold.
        if not isinstance(rle, str):
            raise RecordError(name, "counts", type(rle).__name__, "a compressed string")
    except RecordError as error:
        raise UnusableError("RLE does not fit its image", f"{name} ({error})") from error
    if size != [height, width]:
        raise UnusableError(
            "RLE does not fit its image", f"{name} (an image of {height} x {width})"
        )
    if not runs[1::2].any():
        raise UnusableError("mask is empty", name)
    x, y, wide, high = coco_mask.toBbox({"size": [height, width], "counts": rle.encode()})
    return {
        "id": _read_number(fields, "id", index, name),
        "box": np.array([x, y, x + wide, y + high], np.float32),
        "category": 0,
        "crowd": False,
        "area": float(runs[1::2].sum()),
        "rle": rle,
        "predicted_iou": _read_number(fields, "predicted_iou", 1.0, name),
        "stability": _read_number(fields, "stability_score", 1.0, name),
    }


def _read_number(fields: Mapping[str, Any], key: str, default: float, name: str) -> int | float:
    """Returns a field as a number of the type of its default, which stands in for a missing one.

    Raises:
      UnusableError: it is not a finite number, or an id of more than 64 bits.
    """
    value = fields.get(key)
    try:
        number = type(default)(default if value is None else value)
        if np.isfinite(number) and abs(number) < 2**63:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise UnusableError(f"{key} is not a number", f"{name} ({str(value)[:40]!r})")
