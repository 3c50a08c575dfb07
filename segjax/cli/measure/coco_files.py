"""Files in COCO's format that the measuring commands read."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from segjax.cli.inference.image_finder import NamedImages
from segjax.files import read_json_object

FORM = "expected COCO's {'images': [...], 'annotations': [...], 'categories': [...]}"


def read_truth(path: str, limit: int = 0) -> dict[str, Any]:
    """Reads COCO annotations.

    Args:
      path: JSON file.
      limit: number of images to keep, the first ones. 0: all.

    Raises:
      ValueError: another format, or no image.
    """
    content = read_json_object(path, FORM)
    if not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise ValueError(f"{path} is no annotation file; {FORM}")
    images = content["images"][: limit or None]
    if not images or not all(isinstance(image, Mapping) and "id" in image for image in images):
        raise ValueError(f"{path} has no images with an id; {FORM}")
    ids = {image["id"] for image in images}
    annotations = [row for row in content["annotations"] if row.get("image_id") in ids]
    return content | {"images": images, "annotations": annotations}


def read_json(path: str | os.PathLike, form: str) -> Any:
    """Reads a JSON file of any form.

    Args:
      path: of the file.
      form: end of the error message: what is expected.

    Raises:
      OSError: the file cannot be read.
      ValueError: no JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no valid JSON ({error}); {form}") from error


def read_results(path: str) -> list[dict[str, Any]]:
    """Reads COCO results: a list of rows with "image_id".

    Raises:
      ValueError: another format.
    """
    form = "expected a list of results [{'image_id': ..., ...}, ...]"
    rows = read_json(path, form)
    valid = isinstance(rows, list) and all(
        isinstance(row, dict) and isinstance(row.get("image_id"), int | str) for row in rows
    )
    if not valid:
        raise ValueError(f"{path} is no file of results; {form}")
    return rows


def list_images(truth: Mapping[str, Any], folder: str) -> Iterator[tuple[dict, pathlib.Path]]:
    """Yields (image of the annotations, its file), after all files have been found.

    Raises:
      FileNotFoundError: an image is missing.
    """
    finder = NamedImages([folder])
    files = [finder.find(image["id"], image.get("file_name")) for image in truth["images"]]
    for image, file in zip(truth["images"], files, strict=True):
        yield image, pathlib.Path(file)
